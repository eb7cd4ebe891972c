#include "runtime/row_pool.h"

#include <algorithm>
#include <tuple>

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
  const auto waits = [](const Run& run) { return run.state == Run::State::under_way; };
  std::vector<std::int64_t> waiting(static_cast<std::size_t>(plan.layers));
  for (const Run& run : runs_)
    if (waits(run)) waiting[layer_of(run)] += run.count;
  picked_.clear();
  picked_runs_.clear();
  const Run* most = nullptr;
  const auto comes_before = [&](const Run& a, const Run& b) {
    const bool late = a.waited >= plan.depth(), other_late = b.waited >= plan.depth();
    return late != other_late ? late : waiting[layer_of(a)] > waiting[layer_of(b)];
  };
  for (const Run& run : runs_)
    if (waits(run) && (most == nullptr || comes_before(run, *most))) most = &run;
  if (most == nullptr) return {};

  std::vector<std::pair<int, std::int64_t>> led;  // sequences and visits of which something goes on
  for (std::size_t i = 0; i < runs_.size(); ++i)
    if (waits(runs_[i]) && layer_of(runs_[i]) == layer_of(*most)) {
      picked_.push_back(i);
      led.emplace_back(runs_[i].sequence, runs_[i].visit);
    }
  for (std::size_t i = 0; i < runs_.size(); ++i)
    if (runs_[i].state == Run::State::left &&
        std::ranges::find(led, std::pair(runs_[i].sequence, runs_[i].visit)) != led.end())
      picked_.push_back(i);
  std::ranges::stable_sort(picked_, {}, [this](std::size_t i) {
    const Run& run = runs_[i];
    return std::tuple(run.keys_only, run.visit, run.sequence, run.first);
  });
  for (Run& run : runs_) ++run.waited;
  for (const std::size_t index : picked_) {
    runs_[index].waited = 0;
    picked_runs_.push_back(runs_[index]);
  }
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

void RowPool::truncate(int sequence, std::int64_t length) {
  for (Run& run : runs_)
    if (run.sequence == sequence && run.first + run.count > length && run.first < length) {
      // Its last rows go: what comes after them moves up.
      const auto index = static_cast<std::size_t>(&run - runs_.data());
      const std::int64_t kept = length - run.first, gone = run.count - kept;
      const auto begin = hidden_.begin() + (row_of(index) + kept) * width_;
      std::copy(begin + gone * width_, hidden_.begin() + rows_ * width_, begin);
      run.count = kept;
      rows_ -= gone;
    }
  drop([&](const Run& run) { return run.sequence == sequence && run.first >= length; });
}

std::int64_t RowPool::row_of(std::size_t index) const {
  std::int64_t row = 0;
  for (std::size_t i = 0; i < index; ++i) row += runs_[i].count;
  return row;
}

}  // namespace fathom
