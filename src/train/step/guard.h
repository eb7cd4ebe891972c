// Steps that should not move the weights: a loss or a gradient that is no number, or a sudden high loss.
#pragma once

#include <cstdint>
#include <optional>
#include <string>

#include "base/json.h"
#include "train/train.h"

namespace fathom {

/// What is usual: exponential means over about 50 steps of the loss and of its square distance from that
/// mean. A checkpoint holds it, so that a resumed run judges alike.
struct LossHistory {
  std::int64_t steps = 0;  ///< that were taken in
  double mean = 0, variance = 0;
  std::int64_t skipped = 0;  ///< steps skipped in a row

  void add(double loss);
  /// How many standard deviations above the mean; of a hundredth of the mean at least, so that a loss that
  /// hardly moves has no spikes. 0 for the first 20 steps, when the loss falls fast and little is known.
  double deviations(double loss) const;
};

Json to_json(const LossHistory& history);
LossHistory history_from_json(const JsonObject& json);

struct Verdict {
  BadStep action = BadStep::note;
  std::string what;  ///< "the loss is nan and the gradient's norm nan"
};

/// What is wrong with a step, if anything is. A tenth bad step in a row is to stop, whatever was asked.
std::optional<Verdict> judge(const TrainStep& step, const LossHistory& history, const GuardOptions& options);

}  // namespace fathom
