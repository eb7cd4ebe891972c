// Rows in flight: their hidden states side by side, and what they wait for.
#pragma once

#include <cstdint>
#include <map>
#include <span>
#include <utility>
#include <vector>

#include "kernels/aligned.h"
#include "model/depth_plan.h"

namespace fathom {

/// Neighbouring tokens of one sequence that are at the same visit: rows that travel together.
struct Run {
  enum class State : std::uint8_t {
    under_way,  ///< waits for a layer
    at_exit,    ///< waits for a verdict: on, or out
    left        ///< its token is out; what it owes later ones it does with the next of its sequence
  };
  std::int64_t feed = 0;  ///< the ticket under which they came
  int sequence = 0;
  std::int64_t first = 0, count = 0;  ///< positions
  std::int64_t visit = 0;             ///< the next one
  std::int64_t asked = 0;             ///< before which visit it last came to an exit
  std::int64_t waited = 0;            ///< for how many layers of others
  State state = State::under_way;
  bool keys_only = false;  ///< what it owes is keys and values of the state that it left with, no more
};

/// Runs keep the order in which they came, so a later run of a sequence never overtakes an earlier one: when
/// both wait for the same visit they wait for the same layer and go together. Runs that have left are parked
/// until a later one of their sequence is at their visit, and go on with it: every position's keys and values
/// are then there before a later position looks for them.
class RowPool {
 public:
  /// `width` floats a row.
  explicit RowPool(std::int64_t width) : width_(width) {}

  std::int64_t rows() const { return rows_; }  ///< without those that are parked
  /// Adds a run and returns its hidden states [count, width], to be filled.
  float* add(const Run& run);

  /// The runs that wait for the layer for which most rows wait (of several such, the one that the first run
  /// waits for); but where one has waited for more layers than the plan has visits, its own, and so until it
  /// is done: rows that leave early and come again would always be more. By visit and within a visit by
  /// sequence and position; behind them those that owe keys alone. Empty when nothing waits. They stay picked
  /// until `advance`.
  std::span<const Run> pick(const DepthPlan& plan);
  /// The picked runs' hidden states one after another. No copy when they lie so anyway.
  float* gather();
  /// Takes the hidden states back to where they were, and moves the picked runs on by one visit.
  void advance();

  /// Calls change(run, hidden) for each run that is not parked; it may change the state, and what goes with
  /// it.
  template <typename Change>
  void each(Change change);

  /// Puts aside what has left of a sequence.
  void park(int sequence);
  /// Lets what is parked of a sequence before this visit go with those that are there.
  void wake(int sequence, std::int64_t visit);
  /// Makes all that is parked of a sequence, but what owes keys alone, rows of a feed; returns how many.
  std::int64_t send(int sequence, std::int64_t feed);
  /// The first position of what is parked of a sequence; `none` when nothing is.
  std::int64_t first_parked(int sequence, std::int64_t none) const;
  /// Parks for another sequence what is parked of this one.
  void fork(int sequence, int other);
  /// Drops the positions from `length` on of what is parked of a sequence.
  void truncate(int sequence, std::int64_t length);

  /// Calls take(run, hidden) for each run that is done, and drops it.
  template <typename Done, typename Take>
  void finish(Done done, Take take);
  /// Drops runs.
  template <typename Which>
  void drop(Which which) {
    finish(which, [](const Run&, const float*) {});
  }

 private:
  template <typename Which>
  void unpark(int sequence, Which which);
  std::int64_t row_of(std::size_t index) const;

  std::int64_t width_;
  std::int64_t rows_ = 0;
  std::vector<Run> runs_;
  LargeFloats hidden_;  // [rows, width], in the order of the runs
  struct Parked {
    Run run;
    std::vector<float> hidden;
  };
  // By sequence; apart from the others, which move up when some are done.
  std::map<int, std::vector<Parked>> parked_;
  std::vector<std::size_t> picked_;
  std::vector<Run> picked_runs_;
  LargeFloats gathered_;
  bool in_place_ = false;
};

template <typename Change>
void RowPool::each(Change change) {
  std::int64_t row = 0;
  for (Run& run : runs_) {
    change(run, std::as_const(hidden_).data() + row * width_);
    row += run.count;
  }
}

template <typename Done, typename Take>
void RowPool::finish(Done done, Take take) {
  std::size_t kept = 0;
  std::int64_t from = 0, to = 0;
  for (const Run run : runs_) {
    const auto begin = hidden_.begin() + from * width_;
    from += run.count;
    if (done(run)) {
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
