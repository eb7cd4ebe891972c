// GGUF v3 (and v2, which differs in nothing that matters here): metadata and tensors of llama.cpp's model
// files.
#pragma once

#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>
#include <vector>

#include "formats/gguf_part.h"

namespace fathom {

/// A mapped GGUF model, in one file or in several (formats/gguf_split.h). Tensor names are GGUF's own
/// ("blk.0.attn_q.weight"), shapes outermost first.
class GgufFile {
 public:
  /// `path` is any of its files. Throws Error naming the file and the key or tensor.
  explicit GgufFile(const std::filesystem::path& path);

  const std::filesystem::path& path() const { return path_; }  ///< of the file that has the metadata
  const GgufMetadata& metadata() const { return metadata_; }
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

  /// The id under tokenizer.ggml.NAME_token_id, below the number of tokens where the file has a vocabulary.
  /// Nothing where the key is absent or says -1, in whatever type and width: there is no such token.
  std::optional<std::int64_t> special_token(const std::string& name) const;

 private:
  std::filesystem::path path_;
  GgufMetadata metadata_;
  TensorMap tensors_;
};

/// True if the file begins with GGUF's magic. Throws Error if it cannot be opened.
bool is_gguf(const std::filesystem::path& path);

}  // namespace fathom
