#include "train/step/sequence_losses.h"

#include <ATen/core/grad_mode.h>

#include <algorithm>

#include "base/interrupt.h"
#include "base/progress.h"
#include "train/ops/head_loss.h"
#include "train/run/device.h"
#include "train/step/micro_batch.h"

namespace fathom {

std::vector<double> sequence_losses(const Checkpoint& model, std::span<const Sequence> sequences, bool bf16,
                                    Device device) {
  constexpr std::size_t at_once = 16;  // 16 x 512 rows keep a GPU busy
  const at::NoGradGuard no_grad;
  TrainModel forward_only(model, {.bf16 = bf16, .trainable = std::nullopt, .device = found_device(device)});
  const LossWeights weights{.softcap = static_cast<float>(model.config.logit_softcap)};
  std::vector<double> losses;
  std::int64_t tokens = 0;
  for (const Sequence& sequence : sequences) tokens += std::ssize(sequence.labels);
  Progress progress("perplexity", tokens, "tok");
  for (std::size_t first = 0; first < sequences.size(); first += at_once) {
    check_interrupt();
    const auto part = sequences.subspan(first, std::min(at_once, sequences.size() - first));
    const MicroBatch batch({part.begin(), part.end()}, std::vector<std::int64_t>(part.size()));
    const Streams streams = forward(forward_only, batch, {forward_only.depth() - 1});
    const at::Tensor hidden = forward_only.final_norm(streams.rows.front());
    std::int64_t row = 0;
    for (const Sequence& sequence : part) {
      const std::int64_t rows = std::ssize(sequence.labels);
      at::Tensor gradient;
      const LossSums sums =
          head_loss(hidden.narrow(0, row, rows), forward_only.head(),
                    std::span<const std::int32_t>(batch.labels)
                        .subspan(static_cast<std::size_t>(row), static_cast<std::size_t>(rows)),
                    weights, {}, gradient);
      losses.push_back(sums.cross_entropy / static_cast<double>(rows));
      row += rows;
    }
    progress.advance(row);
  }
  return losses;
}

}  // namespace fathom
