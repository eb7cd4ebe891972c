// Blocks of every element type to float: ggml's formats, in the arithmetic of its reference (ggml-quants.c).
#pragma once

#include <cstddef>
#include <cstdint>

#include "formats/tensor.h"

namespace fathom {

/// Decodes `blocks` blocks at `in` (block_bytes(type) each, at any alignment) into `out`
/// (block_elements(type) floats each). Every product and sum is one float32 operation in the reference's
/// order, so the result is the reference's to the last bit.
void dequantise(DType type, const std::byte* in, std::int64_t blocks, float* out);

}  // namespace fathom
