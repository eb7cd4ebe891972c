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

/// How scales, and minima, of groups are stored; all as float32 once they are read.
enum class ScaleForm {
  f16,
  f32,
  /// GGUF's Q2_K, Q4_K and Q5_K: two f16 for 256 inputs times a whole number of 6 bits each.
  six_bits,
  /// Q3_K and Q6_K: an f16 for 256 inputs times a whole number of 8 bits, without minima.
  eight_bits
};

/// Inputs of a panel in groups whose weights lie behind their scales.
inline constexpr std::int64_t stretch_inputs = 256;

/// A weight [out, in] cut into panels of 16 outputs. A panel holds, input by input, the weights of its
/// outputs in rows of 64 bytes: one input (float), two (bf16), four (8 bits) or eight (4 bits) neighbouring
/// inputs of each output in 32 bits, which is what a lane of VNNI and of AMX reads at once; sixteen such rows
/// are a tile. Of eight inputs the four first lie in the lower halves of the bytes, and integers of 4 bits
/// are stored as q + zero(), not negative. Behind the weights lie, for 16 outputs each:
/// - int8: the scales (float), and the sums that make up for unsigned activations (-128 times the sum of the
///   output's weights, int32);
/// - int4: the scales (float).
///
/// Weights in groups, int4 too, lie in stretches of 256 inputs, a stretch's scales and minima before its
/// weights, so that a panel is one stream of memory. For 16 outputs each:
/// - int4: a multiplier a group, a byte each, and what fills up a line;
/// - f16, f32: a scale a group, then a minimum a group;
/// - six_bits: the lower four bits of a group's scales and (in the upper halves of the bytes) minima, 16
/// bytes
///   a group; their upper two bits, the scales' before the minima's, of an even group before those of the
///   next one, 16 bytes for both; f16 factors of scales and of minima;
/// - eight_bits: a byte a group; f16 factors.
/// Weights of 6 bits (int6_groups), q + zero() too, are rows of 64 bytes for 16 inputs: two of the lower four
/// bits, as 4-bit weights lie, and one of the upper two, with the first four inputs' in the lowest bits of an
/// output's four bytes. Outputs and inputs beyond the matrix are zeros.
///
/// Read panel by panel each weight is loaded once, in order, and no sum crosses a vector; several panels side
/// by side keep more of the memory busy.
struct PackedMatrix {
  Compute type = Compute::f32;  ///< never native
  std::int64_t out = 0, in = 0;
  bool gated = false;  ///< panels alternate between a gate's and an up projection's; `out` counts both
  std::int64_t padded_in = 0;
  std::int64_t group = 32;  ///< inputs that share a scale, or in int4 a multiplier
  bool minima = false;
  ScaleForm scales_as = ScaleForm::f16;  ///< groups' scales and minima
  AlignedBuffer data;                    ///< the panels, or nothing
  std::span<const std::byte> lent;    ///< where there is nothing: panels that lie elsewhere, in a mapped file
  std::shared_ptr<const void> owner;  ///< keeps those
  std::vector<float> bias;            ///< in the order of the panels, padded; or empty

  std::int64_t panels() const {
    return gated ? 2 * half_panels() : (out + panel_outputs - 1) / panel_outputs;
  }
  std::int64_t half_panels() const { return (out / 2 + panel_outputs - 1) / panel_outputs; }
  bool four_bits() const { return type == Compute::int4 || type == Compute::int4_groups; }
  bool grouped() const { return is_grouped(type); }
  /// Bits of a weight.
  std::int64_t bits() const {
    if (type == Compute::f32) return 32;
    if (type == Compute::bf16) return 16;
    return four_bits() ? 4 : type == Compute::int6_groups ? 6 : 8;
  }
  /// Whether products need the sums of a row's activations in each group.
  bool sums_activations() const { return type == Compute::int4 || grouped(); }
  /// What a stored integer of 4 or 6 bits has too much.
  std::int32_t zero() const { return minima ? 0 : type == Compute::int6_groups ? 32 : 8; }
  std::int64_t weight_bytes() const { return weight_bytes(padded_in); }  ///< of a panel
  std::int64_t weight_bytes(std::int64_t inputs) const { return inputs * bits() * panel_outputs / 8; }
  std::int64_t groups() const { return padded_in / group; }
  /// Whether weights lie in stretches.
  bool stretched() const { return grouped() || type == Compute::int4; }
  /// Of so many groups' multipliers, or scales and minima.
  std::int64_t scale_bytes(std::int64_t of_groups) const {
    if (type == Compute::int4) return (of_groups * panel_outputs + 63) / 64 * 64;
    switch (scales_as) {
      case ScaleForm::f16:
      case ScaleForm::f32:
        return of_groups * panel_outputs * (scales_as == ScaleForm::f16 ? 2 : 4) * (minima ? 2 : 1);
      case ScaleForm::six_bits:
        return (of_groups + of_groups / 2) * panel_outputs + 2 * panel_outputs * 2;
      case ScaleForm::eight_bits:
        return of_groups * panel_outputs + panel_outputs * 2;
    }
    return 0;
  }
  std::int64_t stretches() const { return (padded_in + stretch_inputs - 1) / stretch_inputs; }
  /// Of a stretch, its scales and weights.
  std::int64_t stretch_bytes(std::int64_t inputs) const {
    return scale_bytes(inputs / group) + weight_bytes(inputs);
  }
  /// Of what lies behind the weights.
  std::int64_t tail_bytes() const { return type == Compute::int8 ? 128 : type == Compute::int4 ? 64 : 0; }
  std::int64_t panel_bytes() const {
    if (!stretched()) return weight_bytes() + tail_bytes();
    const std::int64_t whole = padded_in / stretch_inputs, rest = padded_in % stretch_inputs;
    const std::int64_t bytes = whole * stretch_bytes(stretch_inputs) + (rest > 0 ? stretch_bytes(rest) : 0);
    return (bytes + 63) / 64 * 64 + tail_bytes();
  }
  const std::byte* panel(std::int64_t p) const {
    return (lent.empty() ? data.as<std::byte>() : lent.data()) + p * panel_bytes();
  }
  /// All panels.
  std::span<const std::byte> bytes() const {
    return {panel(0), static_cast<std::size_t>(panels() * panel_bytes())};
  }
  /// int8, int4: of the outputs.
  const float* scales(const std::byte* panel) const {
    return reinterpret_cast<const float*>(panel + panel_bytes() - tail_bytes());
  }
  const std::int32_t* offsets(const std::byte* panel) const {
    return reinterpret_cast<const std::int32_t*>(panel + panel_bytes() - 64);
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
inline constexpr int packed_layout = 2;

/// What pack_matrix made of these parts, with panels (PackedMatrix::bytes) that lie elsewhere. `type` is that
/// matrix's, not native. None if they are not of its size.
std::optional<PackedMatrix> view_matrix(std::span<const LinearPart> parts, bool gated, Compute type,
                                        std::span<const std::byte> panels, std::shared_ptr<const void> owner);

/// Copies panels that lie elsewhere, each where the thread that multiplies with it finds it near: on machines
/// with several nodes of memory a mapped file lies where it was read first. view_matrix() does so there.
void bring_near(PackedMatrix& packed);

}  // namespace fathom
