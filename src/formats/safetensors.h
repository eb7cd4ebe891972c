// Hugging Face's safetensors: one file, or several behind model.safetensors.index.json.
#pragma once

#include <filesystem>
#include <map>
#include <string>
#include <utility>
#include <vector>

#include "formats/tensor.h"

namespace fathom {

using TensorMap = std::map<std::string, Tensor, std::less<>>;

/// Maps one file. Every offset, size and shape is checked against the file before a view is made. Throws
/// Error naming the file and the tensor. Tensors of types that Fathom does not compute with (I64, BOOL, F64,
/// ...) are left out.
TensorMap read_safetensors(const std::filesystem::path& file);

/// model.safetensors of a directory, or all shards named by model.safetensors.index.json (each name must be
/// in its shard).
TensorMap read_safetensors_directory(const std::filesystem::path& directory);

/// Writes one file atomically, tensors in the given order without gaps (as the format demands), the data as a
/// whole 64-byte aligned, metadata {"format": "pt"}. Quantised tensors are decoded to `decoded_as` (f32, f16
/// or bf16), others keep their type; what must be decoded is so about a megabyte at a time and never held in
/// memory as a whole. Throws Error (a name that occurs twice, disk full, ...).
void write_safetensors(const std::filesystem::path& file,
                       const std::vector<std::pair<std::string, Tensor>>& tensors,
                       DType decoded_as = DType::bf16);

}  // namespace fathom
