// One GGUF file as it lies on the disk: its metadata and the tensors in it, which may be a part of a model's.
#pragma once

#include <cstdint>
#include <filesystem>
#include <map>
#include <string>
#include <string_view>
#include <variant>
#include <vector>

#include "formats/safetensors.h"

namespace fathom {

inline constexpr std::string_view gguf_magic = "GGUF";

/// A value of the metadata. Integers of every width are int64 or uint64, floats double; arrays are
/// homogeneous.
using GgufValue = std::variant<bool, std::int64_t, std::uint64_t, double, std::string,
                               std::vector<std::int64_t>, std::vector<double>, std::vector<std::string>>;
using GgufMetadata = std::map<std::string, GgufValue, std::less<>>;

struct GgufPart {
  GgufMetadata metadata;
  TensorMap tensors;  ///< GGUF's own names, shapes outermost first
};

/// Maps a file. Checks every count, length, offset and type against it. Throws Error naming the file and the
/// key or tensor.
GgufPart read_gguf_part(const std::filesystem::path& path);

/// A name or a value for a message: quoted, control characters escaped, shortened.
std::string gguf_shown(std::string_view text);

}  // namespace fathom
