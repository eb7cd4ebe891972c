#include "train/step/schedule.h"

#include <algorithm>
#include <cmath>
#include <numbers>

namespace fathom {
namespace {

// Until then every step's measurement may also lengthen the run; the first is slowed by memory that is
// touched for the first time.
constexpr std::int64_t steps_of_measuring = 3;

}  // namespace

double learning_rate(const TrainOptions& options, std::int64_t step, std::int64_t total) {
  const double position = static_cast<double>(step), end = static_cast<double>(total);
  const double warm = std::ceil(options.optimiser.warmup * end);
  if (position < warm) return options.optimiser.learning_rate * (position + 1) / warm;
  const double fraction = end > warm ? (position - warm) / (end - warm) : 1;
  return options.optimiser.min_learning_rate +
         0.5 * (options.optimiser.learning_rate - options.optimiser.min_learning_rate) *
             (1 + std::cos(std::numbers::pi * fraction));
}

std::int64_t steps_in_time(const TrainOptions& options, std::int64_t step, double step_seconds,
                           double seconds, std::int64_t total, std::int64_t most) {
  if (options.max_minutes == 0) return total;
  const double left = std::max(0.0, options.max_minutes * 60 - seconds) / step_seconds;
  const auto fitting = step + static_cast<std::int64_t>(std::min(left, 1e12));
  if (step <= steps_of_measuring) return std::min(fitting, most);
  // A few per cent are the machine's noise; shortening for them would end the run early every time.
  return static_cast<double>(total - step) > 1.05 * static_cast<double>(fitting - step)
             ? std::min(fitting, total)
             : total;
}

}  // namespace fathom
