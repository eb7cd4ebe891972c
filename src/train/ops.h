// The operations of the trained model between its linear layers (train/linear.h), with their gradients.
// Activations: the residual stream is float32, what matrix products read is in their type.
#pragma once

#include <ATen/ATen.h>

#include "model/config.h"
#include "train/attention.h"
#include "train/linear.h"
#include "train/row_kernels.h"

namespace fathom {

/// The tensor's rows for row_kernels.h; it must be contiguous, float32 or bfloat16.
Values rows_of(const at::Tensor& tensor);

/// RMS norm of x[rows, width] with gain w, or 1 + w: same shape, of type `out`.
at::Tensor rms_norm(const at::Tensor& x, const Parameter& gain, bool plus_one, double eps,
                    at::ScalarType out);

/// Rows `ids` of the matrix times `scale`, float32 [ids, width].
at::Tensor embed(const at::Tensor& ids, const Parameter& matrix, double scale);

/// Rotary embedding of the first `heads` heads of x[rows, all heads * head_dim]; the others stay as they are.
/// Tables [positions, head_dim / 2]; row r has position r % positions.
at::Tensor rotary(const at::Tensor& x, const at::Tensor& cosines, const at::Tensor& sines, int64_t heads);

/// Causal attention within each sequence of `positions` rows: qkv[rows, qkv_width] to [rows, heads *
/// head_dim]. By attention.h in bfloat16, by torch where that does not compute it.
at::Tensor attend(const at::Tensor& qkv, const AttentionForm& form);

/// gate_up [rows, 2 width], gates first, to activation(gate) * up [rows, width].
at::Tensor gate(const at::Tensor& gate_up, Activation activation);

}  // namespace fathom
