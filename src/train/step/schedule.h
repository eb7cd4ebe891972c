// The learning rate over a run, and how many steps fit into a time.
#pragma once

#include <cstdint>

#include "train/train.h"

namespace fathom {

/// Of update number `step` (from 0) of `total`: linear from 0 over the warm-up's share of the steps, then a
/// cosine that would reach options.optimiser.min_learning_rate at `total`.
double learning_rate(const TrainOptions& options, std::int64_t step, std::int64_t total);

/// How many steps the run should have in all, after `step` steps of which each takes `step_seconds` now,
/// `seconds` used so far and `total` decided before (options.max_minutes explains it). At least `step`, at
/// most `most`.
std::int64_t steps_in_time(const TrainOptions& options, std::int64_t step, double step_seconds,
                           double seconds, std::int64_t total, std::int64_t most);

}  // namespace fathom
