#include "train/head_loss.h"

#include <ATen/core/grad_mode.h>

#include <algorithm>
#include <vector>

namespace fathom {
namespace {

// Logits of a chunk: 25 MB in bfloat16, 50 MB of float32 for the teacher. Fewer rows would mean adding the
// head's gradient (113 MB for SmolLM2) to its total more often than the products take.
constexpr std::int64_t chunk_logits = 12'600'000;

}  // namespace

LossSums head_loss(const at::Tensor& hidden, const Parameter& head, std::span<const std::int32_t> labels,
                   const LossWeights& weights, const TeacherLogits& teacher, at::Tensor& hidden_gradient) {
  const at::NoGradGuard no_grad;
  const std::int64_t rows = hidden.size(0), vocab = head.compute.size(0);
  const std::int64_t chunk = std::clamp<std::int64_t>(chunk_logits / vocab, 1, rows);
  const bool distil = weights.divergence != 0;
  hidden_gradient = at::empty_like(hidden);
  at::Tensor logits = at::empty({chunk, vocab}, hidden.options());
  at::Tensor weight_gradient = head.trainable() ? at::empty_like(head.compute) : at::Tensor();
  std::vector<float> target(distil ? chunk * vocab : 0);
  LossSums sums;
  for (std::int64_t first = 0; first < rows; first += chunk) {
    const std::int64_t count = std::min(chunk, rows - first);
    const at::Tensor inputs = hidden.narrow(0, first, count);
    at::Tensor outputs = logits.narrow(0, 0, count);
    at::mm_out(outputs, inputs, head.compute.t());
    if (distil) teacher(first, count, target.data());
    const LossSums part = vocabulary_loss(count, vocab, weights, rows_of(outputs),
                                          distil ? target.data() : nullptr, labels.subspan(first, count));
    sums.cross_entropy += part.cross_entropy;
    sums.divergence += part.divergence;
    at::Tensor gradient = hidden_gradient.narrow(0, first, count);
    at::mm_out(gradient, outputs, head.compute);
    if (head.trainable()) {
      at::mm_out(weight_gradient, outputs.t(), inputs);
      accumulate(weight_gradient.numel(), rows_of(weight_gradient), head.gradient.data_ptr<float>());
    }
  }
  return sums;
}

}  // namespace fathom
