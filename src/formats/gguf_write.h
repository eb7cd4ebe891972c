// Metadata and tensors into a GGUF file.
#pragma once

#include <cstdint>
#include <filesystem>
#include <string>
#include <vector>

#include "formats/gguf_part.h"

namespace fathom {

/// A tensor on its way into a GGUF file.
struct GgufTensor {
  std::string name;          ///< GGUF's own: "blk.0.attn_q.weight"
  Tensor tensor;             ///< rows in Hugging Face's order once decoded; offsets to be added are in it
  DType dtype = DType::f32;  ///< what the file gets: a type that is written (formats/tensor.h) or that
                             ///< can_quantise, or the tensor's own
  /// Not 0: the rows of each of so many heads are written so that rotary pairs are neighbours
  /// (Tensor::interleaved_heads).
  std::int64_t interleaved_heads = 0;
};

/// Writes GGUF v3 atomically: keys in alphabetical order, tensors in the given one, each at a multiple of 32
/// bytes. Integers become u32 (i32 and 64 bits where they do not fit, arrays i32), floats f32, as llama.cpp
/// reads its keys. What lies in the file's type and order already is copied; the rest is decoded about a
/// megabyte at a time. Shows a progress bar. Throws Error (disk full, a value that would not be finite) and
/// Interrupted, which leaves nothing.
void write_gguf(const std::filesystem::path& file, const GgufMetadata& metadata,
                const std::vector<GgufTensor>& tensors);

}  // namespace fathom
