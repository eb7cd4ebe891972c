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
  const auto is_late = [&](const Run& run) { return run.waited > plan.depth(); };
  const auto comes_before = [&](const Run& a, const Run& b) {
    return is_late(a) != is_late(b) ? is_late(a) : waiting[layer_of(a)] > waiting[layer_of(b)];
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
  for (const std::size_t index : picked_) {
    Run& run = runs_[index];
    if (!is_late(run)) run.waited = -1;  // whoever was late goes on to its end
    picked_runs_.push_back(run);
  }
  for (Run& run : runs_) ++run.waited;
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

void RowPool::park(int sequence) {
  std::vector<Parked>& parked = parked_[sequence];
  const auto has_left = [&](const Run& run) {
    return run.sequence == sequence && run.state == Run::State::left;
  };
  finish(has_left, [&](const Run& run, const float* hidden) {
    const auto end = hidden + run.count * width_;
    // Neighbours that wait for the same go on together.
    if (!parked.empty()) {
      Run& last = parked.back().run;
      if (last.visit == run.visit && last.keys_only == run.keys_only &&
          last.first + last.count == run.first) {
        last.count += run.count;
        parked.back().hidden.insert(parked.back().hidden.end(), hidden, end);
        return;
      }
    }
    parked.push_back({run, {hidden, end}});
  });
  std::ranges::stable_sort(parked, {}, [](const Parked& one) { return one.run.first; });
}

// Takes parked runs back among the others, as which(run) makes them where it is true.
template <typename Which>
void RowPool::unpark(int sequence, Which which) {
  const auto found = parked_.find(sequence);
  if (found == parked_.end()) return;
  std::erase_if(found->second, [&](Parked& one) {
    if (!which(one.run)) return false;
    std::ranges::copy(one.hidden, add(one.run));
    return true;
  });
  if (found->second.empty()) parked_.erase(found);
}

void RowPool::wake(int sequence, std::int64_t visit) {
  unpark(sequence, [&](const Run& run) { return run.visit == visit; });
}

std::int64_t RowPool::send(int sequence, std::int64_t feed) {
  std::int64_t sent = 0;
  unpark(sequence, [&](Run& run) {
    if (run.keys_only) return false;
    run.state = Run::State::under_way;
    run.feed = feed;
    sent += run.count;
    return true;
  });
  return sent;
}

std::int64_t RowPool::first_parked(int sequence, std::int64_t none) const {
  const auto found = parked_.find(sequence);
  return found == parked_.end() || found->second.empty() ? none : found->second.front().run.first;
}

void RowPool::fork(int sequence, int other) {
  const auto found = parked_.find(sequence);
  if (found == parked_.end()) return;
  std::vector<Parked> copies = found->second;
  for (Parked& copy : copies) copy.run.sequence = other;
  parked_[other] = std::move(copies);
}

void RowPool::truncate(int sequence, std::int64_t length) {
  const auto found = parked_.find(sequence);
  if (found == parked_.end()) return;
  for (auto& [run, hidden] : found->second) {
    run.count = std::min(run.count, length - run.first);
    hidden.resize(static_cast<std::size_t>(std::max<std::int64_t>(0, run.count) * width_));
  }
  std::erase_if(found->second, [](const Parked& one) { return one.run.count <= 0; });
  if (found->second.empty()) parked_.erase(found);
}

std::int64_t RowPool::row_of(std::size_t index) const {
  std::int64_t row = 0;
  for (std::size_t i = 0; i < index; ++i) row += runs_[i].count;
  return row;
}

}  // namespace fathom
