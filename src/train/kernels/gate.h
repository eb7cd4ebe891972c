// The gated activation of a feed-forward and its way back, in one pass over the rows each.
#pragma once

#include <cstdint>

#include "model/config.h"
#include "train/kernels/row_kernels.h"

namespace fathom {

/// y[rows, width] = activation(gate) * up, where a row of gate_up [rows, 2 width] holds its gates, then its
/// ups.
void gated(std::int64_t rows, std::int64_t width, Activation activation, Values gate_up, Values y);

/// Overwrites nothing but d_gate_up [rows, 2 width], from dy [rows, width].
void gated_backward(std::int64_t rows, std::int64_t width, Activation activation, Values gate_up, Values dy,
                    Values d_gate_up);

}  // namespace fathom
