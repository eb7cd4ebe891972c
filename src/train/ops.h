// The operations of the trained model, with their gradients: torch::autograd::Functions over torch's matrix
// products and the passes of row_kernels.h.
//
// Mixed precision is explicit rather than torch's autocast: each parameter keeps a float32 master, which the
// optimiser moves, and a copy in the compute type, rounded once a step instead of once a use. The gradient of
// each use is added to one float32 total at once, so that layers visited many times and accumulated
// micro-batches sum without bfloat16's rounding. Activations: the residual stream is float32, what matrix
// products read is in the compute type.
#pragma once

#include <ATen/ATen.h>

#include "train/row_kernels.h"

namespace fathom {

struct Parameter {
  at::Tensor master;    ///< float32; undefined when frozen
  at::Tensor compute;   ///< what is multiplied with; the master itself where that is float32
  at::Tensor gradient;  ///< float32 total; undefined when frozen

  bool trainable() const { return gradient.defined(); }
  /// The most precise values there are.
  const at::Tensor& values() const { return master.defined() ? master : compute; }
};

/// The tensor's rows for row_kernels.h; it must be contiguous, float32 or bfloat16.
Values rows_of(const at::Tensor& tensor);

/// x[rows, in] Wᵀ + bias: [rows, out] in x's type.
at::Tensor linear(const at::Tensor& x, const Parameter& weight, const Parameter* bias);

/// RMS norm of x[rows, width] with gain w, or 1 + w: same shape, of type `out`.
at::Tensor rms_norm(const at::Tensor& x, const Parameter& gain, bool plus_one, double eps,
                    at::ScalarType out);

/// Rows `ids` of the matrix times `scale`, float32 [ids, width].
at::Tensor embed(const at::Tensor& ids, const Parameter& matrix, double scale);

/// Rotary embedding of x[rows, heads * head_dim]; tables [positions, head_dim / 2]; row r has position
/// r % positions.
at::Tensor rotary(const at::Tensor& x, const at::Tensor& cosines, const at::Tensor& sines, int64_t heads);

/// Causal attention: q [batch, positions, heads, head_dim], k and v with kv_heads; the result is like q. A
/// token sees itself and the window - 1 before it (0: all). `softcap` c: scores s become c tanh(s / c).
at::Tensor attend(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v, double scale, int64_t window,
                  double softcap);

}  // namespace fathom
