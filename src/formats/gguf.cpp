#include "formats/gguf.h"

#include <cerrno>
#include <cmath>
#include <cstring>
#include <fstream>
#include <limits>

#include "base/error.h"
#include "formats/gguf_split.h"

namespace fathom {
namespace {

/// "FILE: key 'K' is missing" and the like, for the typed getters.
template <typename Type>
const Type& get(const GgufFile& file, std::string_view key, std::string_view expected) {
  const auto found = file.metadata().find(key);
  if (found == file.metadata().end()) {
    fail("{}: metadata {} is missing, expected {}", file.path().string(), gguf_shown(key), expected);
  }
  const auto* value = std::get_if<Type>(&found->second);
  if (value == nullptr) {
    fail("{}: metadata {} is of another type, expected {}", file.path().string(), gguf_shown(key), expected);
  }
  return *value;
}

}  // namespace

GgufFile::GgufFile(const std::filesystem::path& path) : path_(path) {
  GgufPart whole = join_gguf_parts(path_, read_gguf_part(path));
  metadata_ = std::move(whole.metadata);
  tensors_ = std::move(whole.tensors);
}

std::int64_t GgufFile::integer(std::string_view key, std::int64_t least, std::int64_t most) const {
  const auto value = get<std::int64_t>(*this, key, "a whole number");
  if (value < least || value > most) {
    fail("{}: metadata {} is {}, expected {} to {}", path_.string(), gguf_shown(key), value, least, most);
  }
  return value;
}

double GgufFile::number(std::string_view key) const {
  const auto found = metadata_.find(key);
  if (found != metadata_.end() && std::holds_alternative<std::int64_t>(found->second)) {
    return static_cast<double>(std::get<std::int64_t>(found->second));
  }
  const auto value = get<double>(*this, key, "a number");
  if (!std::isfinite(value))
    fail("{}: metadata {} is {}, expected a finite number", path_.string(), gguf_shown(key), value);
  return value;
}

const std::string& GgufFile::string(std::string_view key) const {
  return get<std::string>(*this, key, "a string");
}

const std::vector<std::string>& GgufFile::strings(std::string_view key) const {
  return get<std::vector<std::string>>(*this, key, "an array of strings");
}

std::vector<std::int64_t> GgufFile::integers(std::string_view key) const {
  return get<std::vector<std::int64_t>>(*this, key, "an array of whole numbers");
}

std::vector<double> GgufFile::numbers(std::string_view key) const {
  return get<std::vector<double>>(*this, key, "an array of numbers");
}

std::optional<std::int64_t> GgufFile::special_token(const std::string& name) const {
  const std::string key = "tokenizer.ggml." + name + "_token_id";
  const auto found = metadata_.find(key);
  if (found == metadata_.end()) return std::nullopt;
  const auto* wide = std::get_if<std::uint64_t>(&found->second);
  if (wide != nullptr && *wide == std::numeric_limits<std::uint64_t>::max()) return std::nullopt;
  constexpr std::int64_t most = std::numeric_limits<std::int32_t>::max(), none = 0xFFFFFFFF;
  const auto id = get<std::int64_t>(*this, key, "a token's number");
  if (id == -1 || id == none) return std::nullopt;
  const std::string tokens = "tokenizer.ggml.tokens";
  return integer(key, 0, has(tokens) ? std::ssize(strings(tokens)) - 1 : most);
}

bool is_gguf(const std::filesystem::path& path) {
  std::ifstream file(path, std::ios::binary);
  if (!file) fail("{}: cannot open: {}", path.string(), std::strerror(errno));
  char begin[gguf_magic.size()] = {};
  return file.read(begin, sizeof begin) && std::string_view(begin, sizeof begin) == gguf_magic;
}

}  // namespace fathom
