// GGUF v3 (and v2, which differs in nothing that matters here): metadata and tensors of llama.cpp's model
// files.
#pragma once

#include <cstdint>
#include <filesystem>
#include <map>
#include <string>
#include <variant>
#include <vector>

#include "formats/safetensors.h"
#include "formats/tensor.h"

namespace fathom {

/// A value of the metadata. Integers of every width are int64 or uint64, floats double; arrays are
/// homogeneous.
using GgufValue = std::variant<bool, std::int64_t, std::uint64_t, double, std::string,
                               std::vector<std::int64_t>, std::vector<double>, std::vector<std::string>>;

/// A mapped GGUF file. Tensor names are GGUF's own ("blk.0.attn_q.weight"), shapes outermost first.
class GgufFile {
 public:
  /// Checks every count, length, offset and type against the file. Throws Error naming the file and the key
  /// or tensor.
  explicit GgufFile(const std::filesystem::path& path);

  const std::filesystem::path& path() const { return path_; }
  const std::map<std::string, GgufValue, std::less<>>& metadata() const { return metadata_; }
  const TensorMap& tensors() const { return tensors_; }

  /// Typed metadata; each throws Error naming file and key when it is absent, of another type, or out of
  /// range.
  bool has(std::string_view key) const { return metadata_.find(key) != metadata_.end(); }
  std::int64_t integer(std::string_view key, std::int64_t least, std::int64_t most) const;
  double number(std::string_view key) const;
  const std::string& string(std::string_view key) const;
  const std::vector<std::string>& strings(std::string_view key) const;
  std::vector<std::int64_t> integers(std::string_view key) const;
  std::vector<double> numbers(std::string_view key) const;

 private:
  std::filesystem::path path_;
  std::map<std::string, GgufValue, std::less<>> metadata_;
  TensorMap tensors_;
};

/// True if the file begins with GGUF's magic. Throws Error if it cannot be opened.
bool is_gguf(const std::filesystem::path& path);

}  // namespace fathom
