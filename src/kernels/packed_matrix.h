// Weights in panels of 16 outputs: the one layout that all products read.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <vector>

#include "formats/tensor.h"
#include "kernels/aligned.h"
#include "kernels/backend.h"

namespace fathom {

/// Outputs of a panel: one 512-bit vector of sums, or one column of tiles.
inline constexpr std::int64_t panel_outputs = 16;

/// A weight [out, in] cut into panels of 16 outputs. A panel holds, input by input, the weights of its
/// outputs in rows of 64 bytes: one input (float), two (bf16), four (8 bits) or eight (4 bits) neighbouring
/// inputs of each output in 32 bits, which is what a lane of VNNI and of AMX reads at once; sixteen such rows
/// are a tile. Of eight inputs the four first lie in the lower halves of the bytes, and 4-bit integers are
/// stored as q + zero(), not negative. Behind the weights lie, for 16 outputs each:
/// - int8: the scales (float), and the sums that make up for unsigned activations (-128 times the sum of the
///   output's weights, int32);
/// - int4: the multipliers of the groups (a byte a group), and the scales (float);
/// - int8_groups, int4_groups: a scale a group, and where `minima` says so then a minimum a group: f16 or
/// float. Outputs and inputs beyond the matrix are zeros.
///
/// Read panel by panel each weight is loaded once, in order, and no sum crosses a vector; several panels side
/// by side keep more of the memory busy (one stream draws 11 GB/s a core, eight 18).
struct PackedMatrix {
  Compute type = Compute::f32;  ///< never native
  std::int64_t out = 0, in = 0;
  bool gated = false;  ///< panels alternate between a gate's and an up projection's; `out` counts both
  std::int64_t padded_in = 0;
  std::int64_t group = 32;  ///< inputs that share a scale, or in int4 a multiplier
  bool minima = false;
  bool half_scales = true;            ///< groups' scales and minima are f16
  AlignedBuffer data;                 ///< the panels, or nothing
  std::span<const std::byte> lent;    ///< where there is nothing: panels that lie elsewhere, in a mapped file
  std::shared_ptr<const void> owner;  ///< keeps those
  std::vector<float> bias;            ///< in the order of the panels, padded; or empty

  std::int64_t panels() const {
    return gated ? 2 * half_panels() : (out + panel_outputs - 1) / panel_outputs;
  }
  std::int64_t half_panels() const { return (out / 2 + panel_outputs - 1) / panel_outputs; }
  bool four_bits() const { return type == Compute::int4 || type == Compute::int4_groups; }
  bool grouped() const { return type == Compute::int8_groups || type == Compute::int4_groups; }
  /// Whether products need the sums of a row's activations in each group.
  bool sums_activations() const { return type == Compute::int4 || grouped(); }
  /// What a stored 4-bit integer has too much.
  std::int32_t zero() const { return minima ? 0 : 8; }
  std::int64_t weight_bytes() const {  ///< of a panel
    if (type == Compute::f32) return padded_in * 64;
    if (type == Compute::bf16) return padded_in * 32;
    return padded_in * (four_bits() ? 8 : 16);
  }
  std::int64_t groups() const { return padded_in / group; }
  std::int64_t multiplier_bytes() const { return type == Compute::int4 ? (groups() * 16 + 63) / 64 * 64 : 0; }
  /// Of one group's scales, or minima.
  std::int64_t group_bytes() const { return panel_outputs * (half_scales ? 2 : 4); }
  /// Of what lies behind the weights.
  std::int64_t tail_bytes() const {
    if (grouped()) return (groups() * group_bytes() * (minima ? 2 : 1) + 63) / 64 * 64;
    return type == Compute::int8 ? 128 : type == Compute::int4 ? multiplier_bytes() + 64 : 0;
  }
  std::int64_t panel_bytes() const { return weight_bytes() + tail_bytes(); }
  const std::byte* panel(std::int64_t p) const {
    return (lent.empty() ? data.as<std::byte>() : lent.data()) + p * panel_bytes();
  }
  /// All panels.
  std::span<const std::byte> bytes() const {
    return {panel(0), static_cast<std::size_t>(panels() * panel_bytes())};
  }
  const std::int8_t* multipliers(const std::byte* panel) const {
    return reinterpret_cast<const std::int8_t*>(panel + weight_bytes());
  }
  const float* scales(const std::byte* panel) const {
    return reinterpret_cast<const float*>(panel + weight_bytes() + multiplier_bytes());
  }
  const std::int32_t* offsets(const std::byte* panel) const {
    return reinterpret_cast<const std::int32_t*>(panel + weight_bytes() + 64);
  }
  const std::byte* group_scales(const std::byte* panel, std::int64_t g) const {
    return panel + weight_bytes() + g * group_bytes();
  }
  const std::byte* group_minima(const std::byte* panel, std::int64_t g) const {
    return group_scales(panel, groups() + g);
  }
};

/// What `type` is for these parts: itself, unless it is native.
Compute resolved_type(std::span<const LinearPart> parts, Compute type);

/// Whether a weight goes over to a matrix in groups of that type with its own integers and scales.
bool keeps_integers(const Tensor& weight, Compute type);

/// Packs weights of the same inputs one after another by outputs; gated: two of the same size, in turns.
PackedMatrix pack_matrix(std::span<const LinearPart> parts, bool gated, Compute type);

/// Counts the changes of what pack_matrix makes of the same parts, so that no file of packed weights outlives
/// one (runtime/packed_cache.h). It does not depend on the level of instruction sets.
inline constexpr int packed_layout = 1;

/// What pack_matrix made of these parts, with panels (PackedMatrix::bytes) that lie elsewhere. `type` is that
/// matrix's, not native. None if they are not of its size.
std::optional<PackedMatrix> view_matrix(std::span<const LinearPart> parts, bool gated, Compute type,
                                        std::span<const std::byte> panels, std::shared_ptr<const void> owner);

}  // namespace fathom
