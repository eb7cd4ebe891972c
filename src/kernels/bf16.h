// bfloat16: the upper half of a float32.
#pragma once

#include <bit>
#include <cstdint>

namespace fathom {

/// Rounds to nearest, ties to even; a NaN stays a NaN.
inline std::uint16_t to_bf16(float value) {
  const auto bits = std::bit_cast<std::uint32_t>(value);
  if ((bits & 0x7fffffffU) > 0x7f800000U) return static_cast<std::uint16_t>((bits >> 16) | 0x40U);
  return static_cast<std::uint16_t>((bits + 0x7fffU + ((bits >> 16) & 1U)) >> 16);
}

inline float from_bf16(std::uint16_t value) {
  return std::bit_cast<float>(static_cast<std::uint32_t>(value) << 16);
}

/// Where element (row, column) lies in a matrix of `columns` columns whose rows are interleaved in pairs when
/// its elements are bf16 (uint16_t): such a pair is what a 32-bit lane, and a tile of AMX, reads at once.
template <typename T>
constexpr std::int64_t paired_index(std::int64_t row, std::int64_t column, std::int64_t columns) {
  if constexpr (sizeof(T) == 4)
    return row * columns + column;
  else
    return (row / 2 * columns + column) * 2 + row % 2;
}

}  // namespace fathom
