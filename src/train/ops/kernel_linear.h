// Linear layers whose products in bfloat16 are the runtime's kernels' (kernels/multiply.h), all three:
// torch's take weights and gradients as they lie and bring them into form for each use.
#pragma once

#include <cstdint>
#include <optional>
#include <utility>
#include <vector>

#include "kernels/packed_matrix.h"
#include "train/ops/linear.h"
#include "train/ops/packed_weights.h"

namespace fathom {

/// One product computes the outputs of all layers. Float32 is left to torch.
class KernelGroup : public LinearGroup {
 public:
  /// `spares_memory`: no packed weights of its own.
  KernelGroup(std::vector<const Parameter*> weights, std::vector<const Parameter*> biases, bool spares_memory)
      : LinearGroup(std::move(weights), std::move(biases)), packed_(LinearGroup::weights(), spares_memory) {}

 protected:
  at::Tensor in_type(const at::Tensor& dy, at::ScalarType type) const override;
  at::Tensor product(const at::Tensor& x, const at::Tensor& sum) const override;
  at::Tensor product_back(const at::Tensor& dy) const override;
  void add_weight_gradients(const at::Tensor& x, const at::Tensor& dy) const override;

 private:
  mutable PackedWeights packed_;
};

/// dW[out, in] = or += dyᵀ x for bfloat16 dy[rows, out], rows `stride` apart, and x, which is packed by
/// columns. The sum of dW's squares, or none where it was added to.
std::optional<double> weight_gradient(const PackedMatrix& x, const std::uint16_t* dy, std::int64_t stride,
                                      std::int64_t out, bool accumulate, float* gradient);

}  // namespace fathom
