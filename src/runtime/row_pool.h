// Rows in flight: their hidden states side by side, and which layer they wait for.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "kernels/aligned.h"
#include "model/depth_plan.h"

namespace fathom {

/// Neighbouring tokens of one sequence that are at the same visit: rows that travel together.
struct Run {
  std::int64_t feed = 0;  ///< the ticket under which they came
  int sequence = 0;
  std::int64_t first = 0, count = 0;  ///< positions
  std::int64_t visit = 0;             ///< the next one
};

/// Runs keep the order in which they came, so a later run of a sequence never overtakes an earlier one: when
/// both wait for the same visit they wait for the same layer and go together.
class RowPool {
 public:
  /// `width` floats a row.
  explicit RowPool(std::int64_t width) : width_(width) {}

  std::int64_t rows() const { return rows_; }
  /// Adds a run and returns its hidden states [count, width], to be filled.
  float* add(const Run& run);

  /// The runs that wait for the layer for which most rows wait (of several such, the one that the first run
  /// waits for), by visit. Empty when nothing waits. They stay picked until `advance`.
  std::span<const Run> pick(const DepthPlan& plan);
  /// The picked runs' hidden states one after another. No copy when they lie so anyway.
  float* gather();
  /// Takes the hidden states back to where they were, and moves the picked runs on by one visit.
  void advance();

  /// Calls take(run, hidden) for each run that has made `depth` visits, and drops it.
  template <typename Take>
  void finish(std::int64_t depth, Take take);
  void clear() {
    runs_.clear();
    rows_ = 0;
  }

 private:
  std::int64_t row_of(std::size_t index) const;

  std::int64_t width_;
  std::int64_t rows_ = 0;
  std::vector<Run> runs_;
  LargeFloats hidden_;  // [rows, width], in the order of the runs
  std::vector<std::size_t> picked_;
  std::vector<Run> picked_runs_;
  LargeFloats gathered_;
  bool in_place_ = false;
};

template <typename Take>
void RowPool::finish(std::int64_t depth, Take take) {
  std::size_t kept = 0;
  std::int64_t from = 0, to = 0;
  for (const Run run : runs_) {
    const auto begin = hidden_.begin() + from * width_;
    from += run.count;
    if (run.visit == depth) {
      take(run, &*begin);
      continue;
    }
    if (to * width_ != begin - hidden_.begin())
      std::copy(begin, begin + run.count * width_, hidden_.begin() + to * width_);
    to += run.count;
    runs_[kept++] = run;
  }
  runs_.resize(kept);
  rows_ = to;
}

}  // namespace fathom
