#include "runtime/row_pool.h"

#include <algorithm>

namespace fathom {

float* RowPool::add(const Run& run) {
  const std::int64_t row = rows_;
  rows_ += run.count;
  if (hidden_.size() < static_cast<std::size_t>(rows_ * width_))
    hidden_.resize(static_cast<std::size_t>(rows_ * width_));
  runs_.push_back(run);
  return hidden_.data() + row * width_;
}

std::span<const Run> RowPool::pick(const DepthPlan& plan) {
  const auto layer_of = [&plan](const Run& run) {
    return static_cast<std::size_t>(plan.visits[static_cast<std::size_t>(run.visit)].layer);
  };
  std::vector<std::int64_t> waiting(static_cast<std::size_t>(plan.layers));
  for (const Run& run : runs_) waiting[layer_of(run)] += run.count;
  const auto most = std::max_element(runs_.begin(), runs_.end(), [&](const Run& a, const Run& b) {
    return waiting[layer_of(a)] < waiting[layer_of(b)];
  });

  picked_.clear();
  for (std::size_t i = 0; i < runs_.size(); ++i)
    if (layer_of(runs_[i]) == layer_of(*most)) picked_.push_back(i);
  std::stable_sort(picked_.begin(), picked_.end(),
                   [this](std::size_t a, std::size_t b) { return runs_[a].visit < runs_[b].visit; });
  picked_runs_.clear();
  for (const std::size_t index : picked_) picked_runs_.push_back(runs_[index]);
  return picked_runs_;
}

float* RowPool::gather() {
  in_place_ = true;
  std::int64_t rows = 0;
  for (std::size_t i = 0; i < picked_.size(); ++i) {
    in_place_ = in_place_ && picked_[i] == picked_[0] + i;
    rows += picked_runs_[i].count;
  }
  if (in_place_) return hidden_.data() + row_of(picked_[0]) * width_;
  gathered_.resize(static_cast<std::size_t>(rows * width_));
  auto to = gathered_.begin();
  for (const std::size_t index : picked_)
    to = std::copy_n(hidden_.begin() + row_of(index) * width_, runs_[index].count * width_, to);
  return gathered_.data();
}

void RowPool::advance() {
  auto from = gathered_.begin();
  for (const std::size_t index : picked_) {
    if (!in_place_) {
      const std::int64_t values = runs_[index].count * width_;
      std::copy_n(from, values, hidden_.begin() + row_of(index) * width_);
      from += values;
    }
    ++runs_[index].visit;
  }
}

std::int64_t RowPool::row_of(std::size_t index) const {
  std::int64_t row = 0;
  for (std::size_t i = 0; i < index; ++i) row += runs_[i].count;
  return row;
}

}  // namespace fathom
