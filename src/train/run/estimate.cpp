// What a run would need: counted where that can be, measured where it cannot.
#include <sys/resource.h>

#include <algorithm>
#include <chrono>
#include <functional>

#include "train/run/device.h"
#include "train/run/session.h"
#include "train/train.h"

namespace fathom {
namespace {

std::int64_t peak_memory(Device device) {
  if (device == Device::cuda) return gpu_peak_memory();
  rusage usage{};
  ::getrusage(RUSAGE_SELF, &usage);
  return static_cast<std::int64_t>(usage.ru_maxrss) * 1024;
}

}  // namespace

TrainEstimate estimate_training(const TrainInputs& inputs, const TrainOptions& options) {
  using Clock = std::chrono::steady_clock;
  TrainOptions uncached = options;
  uncached.teacher_cache.folder.clear();  // which a look leaves alone
  const Ranks alone;
  Session session(inputs, uncached, alone);
  TrainEstimate result{.steps = session.steps(), .tokens = session.steps() * session.runner.tokens()};
  for (const auto& [name, parameter] : session.model.parameters()) {
    const std::int64_t count = parameter.elements();
    result.parameters += count;
    if (parameter.four_bit) {
      result.weight_bytes += parameter.four_bit->bytes();
      continue;
    }
    // Matrices are packed twice in bfloat16, for the way ahead and the way back.
    const bool packs = !options.gradient_checkpointing && options.bf16 && session.model.operations().packs();
    const std::int64_t packed = packs && parameter.values.dim() > 1 ? 4 * count : 0;
    result.weight_bytes += static_cast<std::int64_t>(parameter.values.nbytes()) + packed;
    if (!parameter.trainable()) continue;
    result.trained += count;
    const auto bytes = static_cast<std::int64_t>(parameter.gradient.nbytes());  // float32, as are the others
    result.optimiser_bytes += 3 * bytes;
  }
  result.checkpoint_bytes = session.checkpoint_bytes();
  if (!options.teacher_cache.folder.empty()) {
    result.teacher_cache_bytes = session.top_form().bytes(result.tokens);
  }
  if (session.teacher) result.teacher_bytes = session.teacher->weight_bytes();

  session.runner.run_part(options.micro_batch);  // the first is slower: all memory is new
  const auto seconds_of = [&](const std::function<void()>& work) {
    wait_for(session.device);
    const auto begin = Clock::now();
    work();
    wait_for(session.device);
    return std::chrono::duration<double>(Clock::now() - begin).count();
  };
  const double seconds = seconds_of([&] { session.runner.run_part(options.micro_batch); });
  const std::int64_t sequences = session.runner.tokens() / options.context;
  const double part = static_cast<double>(std::min(options.micro_batch, sequences));
  const double update = seconds_of([&] { session.optimiser.step(0, session.optimiser.gradient_norm()); });
  result.step_seconds = seconds * static_cast<double>(sequences) / part + update;
  result.peak_bytes = peak_memory(session.device);
  return result;
}

}  // namespace fathom
