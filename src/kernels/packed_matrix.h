// Weights in panels of 16 outputs: the one layout that all products read.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "formats/tensor.h"
#include "kernels/aligned.h"
#include "kernels/backend.h"

namespace fathom {

/// Outputs of a panel: one 512-bit vector of sums, or one column of tiles.
inline constexpr std::int64_t panel_outputs = 16;

/// A weight [out, in] cut into panels of 16 outputs. A panel holds, input by input, the weights of its
/// outputs in rows of 64 bytes: one input (float), two (bf16) or four (int8) neighbouring inputs of each
/// output, which is what a 32-bit lane of VNNI and of AMX reads at once; sixteen such rows are a tile. int4:
/// a row holds eight inputs, the four first in the lower halves of the bytes. Behind the weights lie, for 16
/// outputs each, the multipliers of the groups (int4: a byte a group), the scales (int8, int4: float) and the
/// sums that make up for unsigned activations (int8: -128 times the sum of the output's weights, int32).
/// Outputs and inputs beyond the matrix are zeros.
///
/// Read panel by panel each weight is loaded once, in order, and no sum crosses a vector; several panels side
/// by side keep more of the memory busy (one stream draws 11 GB/s a core, eight 18).
struct PackedMatrix {
  Compute type = Compute::f32;
  std::int64_t out = 0, in = 0;
  bool gated = false;  ///< panels alternate between a gate's and an up projection's; `out` counts both
  std::int64_t padded_in = 0;
  AlignedBuffer data;
  std::vector<float> bias;  ///< in the order of the panels, padded; or empty

  std::int64_t panels() const {
    return gated ? 2 * half_panels() : (out + panel_outputs - 1) / panel_outputs;
  }
  std::int64_t half_panels() const { return (out / 2 + panel_outputs - 1) / panel_outputs; }
  std::int64_t weight_bytes() const {  ///< of a panel
    switch (type) {
      case Compute::f32:
        return padded_in * 64;
      case Compute::bf16:
        return padded_in * 32;
      case Compute::int8:
        return padded_in * 16;
      case Compute::int4:
        return padded_in * 8;
    }
    return 0;
  }
  std::int64_t groups() const { return padded_in / 32; }
  std::int64_t multiplier_bytes() const { return type == Compute::int4 ? (groups() * 16 + 63) / 64 * 64 : 0; }
  std::int64_t panel_bytes() const {
    const std::int64_t tail = type == Compute::int8 ? 128 : type == Compute::int4 ? 64 : 0;
    return weight_bytes() + multiplier_bytes() + tail;
  }
  const std::byte* panel(std::int64_t p) const { return data.as<std::byte>() + p * panel_bytes(); }
  const std::int8_t* multipliers(const std::byte* panel) const {
    return reinterpret_cast<const std::int8_t*>(panel + weight_bytes());
  }
  const float* scales(const std::byte* panel) const {
    return reinterpret_cast<const float*>(panel + weight_bytes() + multiplier_bytes());
  }
  const std::int32_t* offsets(const std::byte* panel) const {
    return reinterpret_cast<const std::int32_t*>(panel + weight_bytes() + 64);
  }
};

/// Packs weights of the same inputs one after another by outputs; gated: two of the same size, in turns.
PackedMatrix pack_matrix(std::span<const LinearPart> parts, bool gated, Compute type);

}  // namespace fathom
