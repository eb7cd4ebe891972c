// bfloat16, the upper half of a float32, in pairs.
#pragma once

#include <cstdint>

#include "formats/float16.h"

namespace fathom {

/// The least number of bf16 values from `width` on that fills an odd number of cache lines: rows so far apart
/// lie in different sets of the L1 cache, in which a tile's 16 rows otherwise share a few.
constexpr std::int64_t odd_lines(std::int64_t width) { return ((width + 31) / 32 | 1) * 32; }

}  // namespace fathom
