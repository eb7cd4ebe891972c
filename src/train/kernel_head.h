// The head whose products in bfloat16 and losses are Fathom's kernels'.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "kernels/aligned.h"
#include "kernels/packed_matrix.h"
#include "kernels/repack.h"
#include "train/head_loss.h"
#include "train/kernel_linear.h"

namespace fathom {

/// The weight is packed for each use, and kept where a step has several and memory is not spared. Products in
/// float32 are left to torch.
class KernelHead : public Head {
 public:
  KernelHead(const Parameter* weight, bool spares_memory) : Head(weight), spares_memory_(spares_memory) {}

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
  /// The weight, or its transpose, for some entries of the vocabulary each.
  struct Packed {
    std::vector<PackedMatrix> pieces;
    std::int64_t updates = -1;  // packed after so many
    Reuse reuse;
  };
  /// Calls body(first entry, piece), each piece packed just before if it has to be.
  template <typename Body>
  void each_piece(Packed& packed, void (*pack)(std::span<const DenseMatrix>, PackedMatrix&),
                  const Body& body);

  bool spares_memory_;
  AlignedBuffer logits_;
  Packed ahead_, back_;
  PackedMatrix inputs_;
};

}  // namespace fathom
