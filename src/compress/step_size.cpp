#include "compress/step_size.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>

#include "base/random.h"
#include "train/run/device.h"

namespace fathom {
namespace {

constexpr std::int64_t least_sequences = 4, most_sequences = 32;

/// Any tokens: which they are makes no difference to a step's time.
TokenStore any_text(const Checkpoint& model, std::int64_t tokens) {
  Random random(0);
  std::vector<Token> text(static_cast<std::size_t>(tokens));
  for (Token& token : text)
    token = static_cast<Token>(random.next() % static_cast<std::uint64_t>(model.config.vocab_size));
  return store_documents({text}, 0, "a probe's tokens");
}

}  // namespace

StepSize widest_step(const std::function<StepCost(std::int64_t sequences)>& try_step, std::int64_t memory) {
  std::int64_t sequences = least_sequences, before = 0;
  StepCost cost = try_step(sequences);
  StepSize best{.sequences = sequences, .tokens_per_second = cost.tokens_per_second};
  while (sequences < most_sequences) {
    // Twice the sequences need twice what the last doubling added, and never more than twice of all.
    const std::int64_t next =
        cost.peak_bytes + (before > 0 ? 2 * (cost.peak_bytes - before) : cost.peak_bytes);
    if (memory > 0 && next > memory / 10 * 9) break;
    before = cost.peak_bytes;
    sequences *= 2;
    cost = try_step(sequences);
    if (cost.tokens_per_second < 1.1 * best.tokens_per_second) break;
    best = {.sequences = sequences,
            .learning_rate = std::sqrt(static_cast<double>(sequences) / least_sequences),
            .tokens_per_second = cost.tokens_per_second};
  }
  return best;
}

StepSize probe_step(const Checkpoint& original, const TrainOptions& training) {
  const Device device = found_device(training.device);
  if (device == Device::cpu) return {};
  const TokenStore text = any_text(original, 2 * most_sequences * training.context);
  const auto try_step = [&](std::int64_t sequences) -> StepCost {
    TrainOptions options = training;
    options.micro_batch = sequences;
    options.tokens = options.tokens_per_step = sequences * options.context;
    const TrainEstimate found =
        estimate_training({.student = original, .teacher = &original, .text = {{.store = text}}}, options);
    return {static_cast<double>(options.tokens_per_step) / found.step_seconds, found.peak_bytes};
  };
  return widest_step(try_step, device == Device::cuda ? gpu_memory() : 0);
}

std::string describe(const StepSize& size, const TrainOptions& training) {
  return fmt::format("steps of {} x {} tokens on {}", size.sequences, training.context,
                     device_name(found_device(training.device)));
}

}  // namespace fathom
