// Blocks of every element type to whole numbers and to floats: ggml's formats, in the arithmetic of its
// reference (ggml-quants.c).
#pragma once

#include <cstddef>
#include <cstdint>

#include "formats/tensor.h"

namespace fathom {

/// Decodes `blocks` blocks at `in` (block_bytes(type) each, at any alignment) into `out`
/// (block_elements(type) floats each). Every product and sum is one float32 operation in the reference's
/// order, so the result is the reference's to the last bit.
void dequantise(DType type, const std::byte* in, std::int64_t blocks, float* out);

/// How a quantised type stores its elements: scale * q + minimum, with a whole number q for each and a scale
/// (and minimum) for each group. scale * q is exact in float32 for all types: at most 11 bits of an f16 times
/// 8 of a sub-block's scale times 6 of q, or 11 times 8.
struct Grouping {
  int size = 0;  ///< elements of a group; 0: not a quantised type
  int bits = 0;  ///< q goes from 0 to 2^bits - 1 with minima, and without from -2^(bits - 1) on
  bool minima = false;
  bool half = false;   ///< scales and minima are f16
  bool super = false;  ///< they are products of f16 with whole numbers (SuperScales)
};
Grouping grouping_of(DType type);

/// The same blocks, of a quantised type, as stored: block_elements(type) whole numbers each, and a scale and
/// (where the type has them) a minimum for each of its groups.
void unpack(DType type, const std::byte* in, std::int64_t blocks, std::int8_t* q, float* scales,
            float* minima);

/// The scales of a block of 256 whose groups have whole numbers: that of group j is scale * scales[j], and
/// its minimum -(minimum * minima[j]), where the type has minima, from 0 to 63 as their scales then are.
struct SuperScales {
  float scale = 0, minimum = 0;  ///< f16
  std::int8_t scales[16] = {};
  std::uint8_t minima[16] = {};
};
/// The same for a type of Grouping::super, with these as they are stored: `scales` has one a block.
void unpack(DType type, const std::byte* in, std::int64_t blocks, std::int8_t* q, SuperScales* scales);

}  // namespace fathom
