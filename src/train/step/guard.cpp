#include "train/step/guard.h"

#include <algorithm>
#include <cmath>

#include "base/error.h"

namespace fathom {
namespace {

constexpr double decay = 0.98;
constexpr std::int64_t unknown_steps = 20, most_skipped = 10;

}  // namespace

void LossHistory::add(double loss) {
  const double keep = std::min(decay, static_cast<double>(steps) / static_cast<double>(steps + 1));
  const double distance = loss - mean;
  mean += (1 - keep) * distance;
  variance = keep * (variance + (1 - keep) * distance * distance);
  ++steps;
}

double LossHistory::deviations(double loss) const {
  if (steps < unknown_steps) return 0;
  return (loss - mean) / std::max({std::sqrt(variance), 0.01 * std::abs(mean), 1e-9});
}

Json to_json(const LossHistory& history) {
  return {{"steps", history.steps},
          {"mean", history.mean},
          {"variance", history.variance},
          {"skipped", history.skipped}};
}

LossHistory history_from_json(const JsonObject& json) {
  constexpr std::int64_t most = std::int64_t{1} << 50;
  return {.steps = json.integer("steps", 0, most),
          .mean = json.number("mean"),
          .variance = json.number("variance"),
          .skipped = json.integer("skipped", 0, most)};
}

namespace {
// A NaN's sign is the processor's, and says nothing.
double without_sign_of_nan(double value) { return std::isnan(value) ? std::abs(value) : value; }
}  // namespace

std::optional<Verdict> judge(const TrainStep& step, const LossHistory& history, const GuardOptions& options) {
  Verdict verdict;
  if (!std::isfinite(step.loss) || !std::isfinite(step.gradient_norm)) {
    verdict = {options.on_nan,
               fmt::format("the loss is {} and the gradient's norm {}", without_sign_of_nan(step.loss),
                           without_sign_of_nan(step.gradient_norm))};
  } else {
    const double deviations = history.deviations(step.loss);
    if (options.spike_deviations == 0 || deviations <= options.spike_deviations) return {};
    verdict = {options.on_spike, fmt::format("the loss is {:.4f}, {:.1f} standard deviations above {:.4f}",
                                             step.loss, deviations, history.mean)};
  }
  if (verdict.action == BadStep::skip && history.skipped + 1 >= most_skipped) {
    verdict.action = BadStep::stop;
    verdict.what += fmt::format("; {} steps in a row were bad", most_skipped);
  }
  return verdict;
}

}  // namespace fathom
