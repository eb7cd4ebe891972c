// Linear layers whose products in bfloat16 are the runtime's kernels' (kernels/multiply.h), all three:
// torch's take weights and gradients as they lie and bring them into form for each use.
#pragma once

#include <cstdint>
#include <span>
#include <utility>
#include <vector>

#include "kernels/packed_matrix.h"
#include "kernels/repack.h"
#include "train/linear.h"

namespace fathom {

/// Whether packed weights are worth their memory. What is used once between two changes of the values, as in
/// steps of one micro-batch, is not.
class Reuse {
 public:
  /// To be asked at each use, after so many updates of the values.
  bool is_seen(std::int64_t updates) {
    seen_ = seen_ || last_use_ == updates;
    last_use_ = updates;
    return seen_;
  }

 private:
  std::int64_t last_use_ = -1;
  bool seen_ = false;
};

/// One product computes the outputs of all layers. Float32 is left to torch.
class KernelGroup : public LinearGroup {
 public:
  /// `spares_memory`: no packed weights of its own.
  KernelGroup(std::vector<const Parameter*> weights, std::vector<const Parameter*> biases, bool spares_memory)
      : LinearGroup(std::move(weights), std::move(biases)), spares_memory_(spares_memory) {}

 protected:
  at::Tensor in_type(const at::Tensor& dy, at::ScalarType type) const override;
  at::Tensor product(const at::Tensor& x, const at::Tensor& sum) const override;
  at::Tensor product_back(const at::Tensor& dy) const override;
  void add_weight_gradients(const at::Tensor& x, const at::Tensor& dy) const override;

 private:
  // The weights as products read them, W and its transpose.
  struct Packed {
    PackedMatrix matrix;
    std::int64_t updates = -1;  // packed after so many
    Reuse reuse;
  };
  std::vector<DenseMatrix> dense_weights() const;
  const PackedMatrix& packed(Packed& own, void (*pack)(std::span<const DenseMatrix>, PackedMatrix&)) const;

  bool spares_memory_;
  mutable Packed ahead_, back_;
};

/// A matrix of float32 or bfloat16, contiguous, as packing takes it.
DenseMatrix dense(const at::Tensor& matrix);

/// dW[out, in] = or += dyᵀ x for bfloat16 dy[rows, out], rows `stride` apart, and x, which is packed by
/// columns.
void weight_gradient(const PackedMatrix& x, const std::uint16_t* dy, std::int64_t stride, std::int64_t out,
                     bool accumulate, float* gradient);

}  // namespace fathom
