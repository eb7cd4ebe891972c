// The head fused with the loss. A vocabulary of 50,000 makes 100 KB of bfloat16 logits a token, and their
// log-softmax and its gradient as much again, several times over: here they exist for one chunk of rows at a
// time, in place, and the gradients of the hidden states and of the head are all that remains.
#pragma once

#include <ATen/ATen.h>

#include <cstdint>
#include <functional>
#include <span>
#include <vector>

#include "kernels/aligned.h"
#include "kernels/packed_matrix.h"
#include "train/linear.h"
#include "train/vocabulary_loss.h"

namespace fathom {

/// Writes the teacher's logits of rows [first, first + rows) of the micro-batch: [rows, vocab].
using TeacherLogits = std::function<void(std::int64_t first, std::int64_t rows, float* logits)>;

/// The head's weight [vocab, width], packed once a step.
class Head {
 public:
  Head() = default;
  explicit Head(const Parameter* weight) : weight_(weight) {}

  const Parameter& weight() const { return *weight_; }

  /// Memory for logits [rows, vocab] of x's type, rows apart as products like them. The same at each call:
  /// 50 MB that the system would have to zero and map each time.
  at::Tensor logits_memory(std::int64_t rows, const at::Tensor& x);

  /// logits[rows, vocab] = x Wᵀ, rows `stride` apart, in x's type or in float32.
  void logits(const at::Tensor& x, const at::Tensor& logits);
  /// dx = d W, and the weight's gradient += dᵀ x, from the logits' gradient d.
  void backward(const at::Tensor& x, const at::Tensor& d, at::Tensor& dx);

 private:
  void pack();

  const Parameter* weight_ = nullptr;
  std::int64_t packed_updates_ = -1;
  AlignedBuffer logits_;
  PackedMatrix ahead_, inputs_;
  /// Its transpose, for some entries of the vocabulary each: rows of the logits' gradient are too long for a
  /// cache.
  std::vector<PackedMatrix> back_;
};

/// The logits of `hidden` [rows, width] (after the final norm, without a graph) by the same head, as it is
/// when they are asked for.
TeacherLogits head_logits(Head& head, const at::Tensor& hidden, float softcap);
/// Turns the logits of rows [first, first + logits.size(0)) into their gradient.
using LogitsLoss = std::function<LossSums(std::int64_t first, const at::Tensor& logits)>;

/// Sums of the losses over the rows of `hidden` [rows, width] (after the final norm). Writes their gradient
/// into `hidden_gradient` (like hidden) and adds the head's to its total if it is trained.
LossSums head_loss(const at::Tensor& hidden, Head& head, const LogitsLoss& loss, at::Tensor& hidden_gradient);

/// Sums of both losses over the rows of `hidden` [rows, width] (after the final norm). Writes the gradient of
/// weights.scale * (cross_entropy CE + divergence D), summed over rows, into `hidden_gradient` (like
/// hidden) and adds the head's to its total if it is trained. `teacher` may be empty if its weight is 0.
LossSums head_loss(const at::Tensor& hidden, Head& head, std::span<const std::int32_t> labels,
                   const LossWeights& weights, const TeacherLogits& teacher, at::Tensor& hidden_gradient);

}  // namespace fathom
