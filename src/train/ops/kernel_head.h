// The head whose products in bfloat16 and losses are Fathom's kernels'.
#pragma once

#include <cstdint>
#include <span>

#include "kernels/aligned.h"
#include "kernels/packed_matrix.h"
#include "train/ops/head_loss.h"
#include "train/ops/packed_weights.h"

namespace fathom {

/// Products in float32 are left to torch.
class KernelHead : public Head {
 public:
  /// `spares_memory`: no packed weight of its own.
  KernelHead(const Parameter* weight, bool spares_memory);

  /// Rows apart as products like them. The same at each call: 100 MB that the system would have to zero and
  /// map each time.
  at::Tensor logits_memory(std::int64_t rows, const at::Tensor& x) override;
  void logits(const at::Tensor& x, const at::Tensor& logits) override;
  void backward(const at::Tensor& x, const at::Tensor& d, at::Tensor& dx) override;
  LossSums vocabulary_loss(const LossWeights& weights, const at::Tensor& logits, const at::Tensor& teacher,
                           std::span<const std::int32_t> labels) const override;
  LossSums top_k_loss(const LossWeights& weights, const at::Tensor& logits, const TopTokens& teacher,
                      std::int64_t first, std::span<const std::int32_t> labels) const override;

 private:
  AlignedBuffer logits_;
  PackedWeights packed_;
  PackedMatrix inputs_;
};

}  // namespace fathom
