// bfloat16, the upper half of a float32, in pairs.
#pragma once

#include <cstdint>

#include "formats/float16.h"

namespace fathom {

/// The least number of bf16 values from `width` on that fills an odd number of cache lines: rows so far apart
/// lie in different sets of the L1 cache, in which a tile's 16 rows otherwise share a few.
constexpr std::int64_t odd_lines(std::int64_t width) { return ((width + 31) / 32 | 1) * 32; }

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
