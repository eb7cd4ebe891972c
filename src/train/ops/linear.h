// Linear layers and their gradients, by torch's operations on any device. Weights are brought into the type
// of the products (rounded, or decoded) for each use, in the way back once more: a graph that kept what it
// multiplied with would hold a copy of all weights for every visit.
#pragma once

#include <ATen/ATen.h>

#include <cstdint>
#include <functional>
#include <optional>
#include <vector>

#include "train/ops/four_bit.h"

namespace fathom {

class ValueFollower;
struct MatrixPart;

/// Mixed precision is explicit rather than torch's autocast: values are float32, products round them
/// (LinearGroup). The gradient of each use is added to one float32 total at once, so that layers visited
/// many times and accumulated micro-batches sum without bfloat16's rounding.
struct Parameter {
  at::Tensor values;         ///< float32, contiguous; frozen matrices are in the type of the products
  at::Tensor gradient;       ///< float32 total; undefined when frozen
  std::int64_t updates = 0;  ///< how often the values have changed
  std::optional<FourBitMatrix> four_bit = {};  ///< of a frozen matrix, in the place of `values`
  /// The optimiser has had the gradient: what is left counts as zeros. Who computes all of it writes it then
  /// and adds nothing, which spares a step reading and writing four bytes a weight twice.
  mutable bool spent = false;
  /// The gradient's sum of squares, where who wrote all of it has found that on the way, and nothing was
  /// added since.
  mutable std::optional<double> squares = {};
  mutable ValueFollower* follower = nullptr;  ///< of a matrix that is trained, or none

  bool trainable() const { return gradient.defined(); }
  std::int64_t rows() const { return four_bit ? four_bit->rows() : values.size(0); }
  std::int64_t elements() const { return four_bit ? rows() * four_bit->columns() : values.numel(); }
  /// The gradient, to add to: zeros where it was spent.
  at::Tensor gradient_sum() const;
};

/// To be told of a part of a matrix that has just changed, and is in the caller's cache (kernels/repack.h).
using PartChanged = std::function<void(const MatrixPart&)>;

/// Keeps a matrix in another form, which follows the values as they change.
class ValueFollower {
 public:
  virtual ~ValueFollower() = default;
  /// All values of `parameter` are about to change, for the time number `parameter.updates`: what must be
  /// told of each part.
  virtual PartChanged follow(const Parameter& parameter) = 0;
};

/// The parameter's values in this type; those in 4 bits are decoded.
at::Tensor values_in(const Parameter& parameter, at::ScalarType type);

/// a b in float32, whatever the type that both have.
at::Tensor float_product(const at::Tensor& a, const at::Tensor& b);

/// sum += a b: of bfloat16, too, a float32 sum gets products that nothing has rounded.
void add_product(const at::Tensor& sum, const at::Tensor& a, const at::Tensor& b);

/// Linear layers that read the same rows: their outputs lie side by side. The products are torch's; where
/// kernels compute them, that is a KernelGroup's (train/ops/kernel_linear.h).
class LinearGroup {
 public:
  /// Weights [out, in]; a bias for each, or nullptr. All must outlive the group.
  LinearGroup(std::vector<const Parameter*> weights, std::vector<const Parameter*> biases);
  virtual ~LinearGroup() = default;
  LinearGroup(const LinearGroup&) = delete;
  LinearGroup& operator=(const LinearGroup&) = delete;

  std::int64_t out() const { return out_; }

  /// x[rows, in] Wᵀ + bias, [rows, out] in x's type; `sum` [rows, out] (float32), where it is defined, plus
  /// that. Products are computed in bfloat16 if x is.
  at::Tensor forward(const at::Tensor& x, const at::Tensor& sum) const;
  /// Adds the weights' and biases' gradients to their totals and, if wanted, returns x's (like x) from dy
  /// (like the result).
  at::Tensor backward(const at::Tensor& x, const at::Tensor& dy, bool wants_dx) const;

  /// Weights and biases: what autograd reaches through this group.
  std::vector<at::Tensor> values() const;

 protected:
  const std::vector<const Parameter*>& weights() const { return weights_; }
  /// A gradient in the type of the products.
  virtual at::Tensor in_type(const at::Tensor& dy, at::ScalarType type) const { return dy.to(type); }
  /// x Wᵀ, or sum + x Wᵀ.
  virtual at::Tensor product(const at::Tensor& x, const at::Tensor& sum) const;
  /// dy W.
  virtual at::Tensor product_back(const at::Tensor& dy) const;
  /// Adds dyᵀ x to the gradients of the weights that are trained.
  virtual void add_weight_gradients(const at::Tensor& x, const at::Tensor& dy) const;

 private:
  std::vector<const Parameter*> weights_, biases_;
  std::int64_t out_ = 0;
};

/// x[rows, in] Wᵀ + bias: [rows, out] in x's type.
at::Tensor linear(const at::Tensor& x, const LinearGroup& group);

/// h[rows, out] + x Wᵀ + bias: float32.
at::Tensor add_linear(const at::Tensor& h, const at::Tensor& x, const LinearGroup& group);

}  // namespace fathom
