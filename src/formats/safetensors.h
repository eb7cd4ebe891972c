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
/// Error naming the file and the tensor. Tensors of types that Fathom does not compute with (I64, BOOL, ...)
/// are left out.
TensorMap read_safetensors(const std::filesystem::path& file);

/// What lies in a directory.
struct SafetensorsContent {
  TensorMap tensors;
  /// Names that are not among the tensors, and why: "is of type I64, ...". Whether that matters is for those
  /// to say who need the tensor.
  std::map<std::string, std::string, std::less<>> left_out;
};

/// model.safetensors, or all tensors of the shards that model.safetensors.index.json names. What the index
/// names and its shard does not hold is left out, too: indices name heads that are tied. Throws Error as
/// read_safetensors does; a name in two shards is only right where the index says which.
SafetensorsContent read_safetensors_directory(const std::filesystem::path& directory);

/// Writes one file atomically, tensors in the given order without gaps (as the format demands), the data as a
/// whole 64-byte aligned, metadata {"format": "pt"}. Tensors get written_type(type, decoded_as) and are
/// decoded about a megabyte at a time, never held in memory as a whole. Throws Error (a name that occurs
/// twice, disk full, ...), also where a value would be NaN or infinite, which it may become in a narrower
/// type.
void write_safetensors(const std::filesystem::path& file,
                       const std::vector<std::pair<std::string, Tensor>>& tensors,
                       DType decoded_as = DType::bf16);

}  // namespace fathom
