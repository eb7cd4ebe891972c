// Floats to blocks of whole numbers with scales: the way back of formats/dequantise.h, as ggml's reference
// (quantize_row_*_ref in ggml-quants.c) defines it.
#pragma once

#include <cstddef>
#include <cstdint>

#include "formats/tensor.h"

namespace fathom {

/// True for q4_0, q5_0, q8_0 and q4_k.
bool can_quantise(DType type);

/// Stores `blocks` blocks of block_elements(type) finite floats each at `out` (block_bytes(type) a block).
/// But for q4_k every operation is one of float32 in the reference's order, so the bytes are the reference's;
/// q4_k searches as it does, but takes sums in its own order. False where values are so large that a scale is
/// beyond f16. Throws Error for types that are read alone.
[[nodiscard]] bool quantise(DType type, const float* in, std::int64_t blocks, std::byte* out);

}  // namespace fathom
