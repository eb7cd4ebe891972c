// The head fused with the loss. A vocabulary of 50,000 makes 100 KB of bfloat16 logits a token, and their
// log-softmax and its gradient as much again, several times over: here they exist for one chunk of rows at a
// time, in place, and the gradients of the hidden states and of the head are all that remains.
#pragma once

#include <ATen/ATen.h>

#include <cstdint>
#include <functional>
#include <span>

#include "train/kernels/vocabulary_loss.h"
#include "train/ops/linear.h"
#include "train/step/top_k.h"

namespace fathom {

/// The teacher's logits of rows [first, first + rows) of the micro-batch, where the student's are: float32 or
/// bfloat16 [rows, vocab], which stay until the next call.
using TeacherLogits = std::function<at::Tensor(std::int64_t first, std::int64_t rows)>;

/// The head's weight [vocab, width] and the losses of its logits, by torch's operations; where kernels
/// compute them, that is a KernelHead (train/ops/kernel_head.h).
class Head {
 public:
  /// It must outlive the head.
  explicit Head(const Parameter* weight) : weight_(weight) {}
  virtual ~Head() = default;
  Head(const Head&) = delete;
  Head& operator=(const Head&) = delete;

  const Parameter& weight() const { return *weight_; }
  std::int64_t vocab() const { return weight_->values.size(0); }

  /// Memory for logits [rows, vocab] of x's type.
  virtual at::Tensor logits_memory(std::int64_t rows, const at::Tensor& x);

  /// logits[rows, vocab] = x Wᵀ, in x's type or in float32.
  virtual void logits(const at::Tensor& x, const at::Tensor& logits);
  /// dx = d W, and the weight's gradient += dᵀ x, from the logits' gradient d.
  virtual void backward(const at::Tensor& x, const at::Tensor& d, at::Tensor& dx);

  /// As the functions of these names (train/kernels/vocabulary_loss.h, train/step/top_k.h).
  virtual LossSums vocabulary_loss(const LossWeights& weights, const at::Tensor& logits,
                                   const at::Tensor& teacher, std::span<const std::int32_t> labels) const;
  virtual LossSums top_k_loss(const LossWeights& weights, const at::Tensor& logits, const TopTokens& teacher,
                              std::int64_t first, std::span<const std::int32_t> labels) const;

 private:
  const Parameter* weight_;
};

/// Rows of float32 in memory that grows and is kept: what the system would have to zero and map each time.
at::Tensor rows_in(at::Tensor& memory, std::int64_t rows, std::int64_t width, at::Device device);

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
