// Integers for weights and activations: what is rounded to what. The kernels read these numbers, and the
// reference backend computes with them, so that both mean the same.
#pragma once

#include <cstdint>
#include <span>

namespace fathom {

/// Weights that share a multiplier in int4, or a scale where floats become groups; and activations that share
/// a scale in products with weights in groups.
inline constexpr std::int64_t group_size = 32;
/// Multipliers of a group's scale go from -15 to 15: times a 4-bit weight (-8 to 7) they fit into 8 bits.
inline constexpr int int4_largest_multiplier = 15;

/// int8, symmetric, one scale an output channel: weight i is about scale * q[i], q from -127 to 127. Returns
/// the scale, 0 for a row of zeros. A weight that is not finite makes the scale NaN, and so the row's
/// results.
float quantise_int8(std::span<const float> weights, std::span<std::int8_t> q);

/// A group of int8_groups, at most 32 weights: as quantise_int8, but the scale is one that f16 holds.
float quantise_int8_group(std::span<const float> weights, std::span<std::int8_t> q);

/// A group of int6_groups: the same from -31 to 31.
float quantise_int6_group(std::span<const float> weights, std::span<std::int8_t> q);

/// A group of int4_groups: weight i is about scale * q[i], q from -8 to 7. The scale is one that f16 holds;
/// its sign lets the largest weight become -8, as in GGUF's Q4_0, and it is the one with the least squared
/// error among a few that clip the largest weights.
float quantise_int4_group(std::span<const float> weights, std::span<std::int8_t> q);

/// int4 in groups of 32 along a row: weight i is about scale * multipliers[i / 32] * q[i], q from -8 to 7.
/// One float scale a channel and a small whole multiplier a group, instead of a float for each group,
/// cost 4.25 bits a weight and not 4.5, and make q * multiplier an 8-bit integer: the same product can
/// then run on units for 8-bit integers, exactly. A multiplier's sign lets a group's largest weight become
/// -8. `multipliers` has as many elements as groups begin in the row. Steps are those with
/// the least squared error among a few that clip the largest weights.
float quantise_int4(std::span<const float> weights, std::span<std::int8_t> q,
                    std::span<std::int8_t> multipliers);

/// Activations of a row, or of group_size values for weights in groups, for the product with integer weights:
/// as quantise_int8 but rounding halves to even, as vector units do.
float quantise_activations(std::span<const float> values, std::span<std::int8_t> q);

}  // namespace fathom
