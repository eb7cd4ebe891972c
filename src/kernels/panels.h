// Weights as panels of 64 outputs.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "formats/tensor.h"
#include "kernels/aligned.h"
#include "kernels/backend.h"

namespace fathom {

inline constexpr std::int64_t panel_outputs = 64;

/// Where element (row, column) lies in a matrix of `columns` columns whose rows are interleaved in pairs when
/// its elements are bf16 (uint16_t): such a pair is what a 32-bit lane, and a tile of AMX, reads at once.
template <typename T>
constexpr std::int64_t paired_index(std::int64_t row, std::int64_t column, std::int64_t columns) {
  if constexpr (sizeof(T) == 4)
    return row * columns + column;
  else
    return (row / 2 * columns + column) * 2 + row % 2;
}

/// A weight [out, in], transposed and cut into panels of 64 outputs: panel p holds, for each input i, the
/// weights of outputs 64 p ... 64 p + 63, zeros beyond the last; inputs are padded with zeros to a multiple
/// of 16 (float) or 32 (bf16, two inputs interleaved). It is oneDNN's BA16a64b (BA16a64b2a), the layout that
/// its AVX-512 and AMX kernels choose for every shape, and read panel by panel it serves a few rows as well:
/// each weight is loaded once, in order, and no sum crosses a vector.
struct PanelMatrix {
  std::int64_t out = 0, in = 0, padded_in = 0;
  Compute type = Compute::f32;
  AlignedBuffer data;

  std::int64_t panels() const { return (out + panel_outputs - 1) / panel_outputs; }
  std::int64_t panel_elements() const { return padded_in * panel_outputs; }
};

PanelMatrix pack_panels(const Tensor& weight, Compute type);

}  // namespace fathom
