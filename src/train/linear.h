// Linear layers and their gradients. In bfloat16 all three products are the runtime's kernels' (multiply.h):
// torch's take weights and gradients as they lie and bring them into form for each use.
#pragma once

#include <ATen/ATen.h>

#include <cstdint>
#include <optional>
#include <span>
#include <vector>

#include "kernels/packed_matrix.h"
#include "kernels/repack.h"
#include "train/four_bit.h"

namespace fathom {

/// Mixed precision is explicit rather than torch's autocast: values are float32, products round them once a
/// step (LinearGroup). The gradient of each use is added to one float32 total at once, so that layers visited
/// many times and accumulated micro-batches sum without bfloat16's rounding.
struct Parameter {
  at::Tensor values;         ///< float32, contiguous; frozen matrices are in the type of the products
  at::Tensor gradient;       ///< float32 total; undefined when frozen
  std::int64_t updates = 0;  ///< how often the values have changed
  std::optional<FourBitMatrix> four_bit = {};  ///< of a frozen matrix, in the place of `values`

  bool trainable() const { return gradient.defined(); }
  std::int64_t rows() const { return four_bit ? four_bit->rows() : values.size(0); }
  std::int64_t elements() const { return four_bit ? rows() * four_bit->columns() : values.numel(); }
};

/// Linear layers that read the same rows: their outputs lie side by side, one product computes them all.
class LinearGroup {
 public:
  /// Weights [out, in]; a bias for each, or nullptr. All must outlive the group.
  LinearGroup(std::vector<const Parameter*> weights, std::vector<const Parameter*> biases);

  std::int64_t out() const { return out_; }

  /// x[rows, in] Wᵀ + bias, [rows, out] in x's type; `sum` [rows, out] (float32), where it is defined, plus
  /// that. Products are computed in bfloat16 if x is.
  at::Tensor forward(const at::Tensor& x, const at::Tensor& sum) const;
  /// Adds the weights' and biases' gradients to their totals and, if wanted, returns x's (like x) from dy
  /// (like the result).
  at::Tensor backward(const at::Tensor& x, const at::Tensor& dy, bool wants_dx) const;

  /// Weights and biases: what autograd reaches through this group.
  std::vector<at::Tensor> values() const;

 private:
  std::vector<DenseMatrix> dense_weights() const;
  void add_gradients(const at::Tensor& x, const at::Tensor& dy) const;

  std::vector<const Parameter*> weights_, biases_;
  std::int64_t out_ = 0;
  // The weights as products read them, W and its transpose.
  struct Packed {
    PackedMatrix matrix;
    std::int64_t updates = -1;   // packed after so many
    std::int64_t last_use = -1;  // after so many
    bool reused = false;
  };
  const PackedMatrix& packed(Packed& own, void (*pack)(std::span<const DenseMatrix>, PackedMatrix&)) const;

  mutable Packed ahead_, back_;
};

/// x[rows, in] Wᵀ + bias: [rows, out] in x's type.
at::Tensor linear(const at::Tensor& x, const LinearGroup& group);

/// h[rows, out] + x Wᵀ + bias: float32.
at::Tensor add_linear(const at::Tensor& h, const at::Tensor& x, const LinearGroup& group);

/// dW[out, in] += dyᵀ x for bfloat16 dy[rows, out], rows `stride` apart, and x, which is packed by columns.
void add_weight_gradient(const PackedMatrix& x, const std::uint16_t* dy, std::int64_t stride,
                         std::int64_t out, float* gradient);

}  // namespace fathom
