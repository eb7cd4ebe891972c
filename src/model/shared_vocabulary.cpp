#include "model/shared_vocabulary.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <vector>

#include "base/json.h"

namespace fathom {
namespace {

// Texts to compare on: what the vocabulary's pieces stand for, at most so many of them, and some sentences.
constexpr std::int64_t most_pieces = 1 << 13;
constexpr std::array sentences = {"The fox's 12 jumps\n\n  over <b>5,000</b> lazy dogs;\tthe end.",
                                  "trailing spaces  ",
                                  "déjà vu, Straße, naïve",
                                  "x = f(a[0], b) if not c else None  # 3.14",
                                  "Привет, мир",
                                  "日本語の文章"};

std::string quoted(const std::string& text) {
  return Json(text).dump(-1, ' ', false, Json::error_handler_t::replace);
}

/// Empty for an entry that is only there to make the vocabulary longer.
std::string meaning(const Tokenizer& tokenizer, Token id) {
  std::string piece = tokenizer.piece(id);
  return piece == fmt::format("[PAD{}]", id) ? "" : piece;
}

std::string in_words(const std::string& piece) { return piece.empty() ? "nothing" : quoted(piece); }

std::optional<TokenizerDifference> difference_on(const Tokenizer& own, const Tokenizer& other,
                                                 const std::string& text) {
  const std::vector<Token> here = own.encode(text, false), there = other.encode(text, false);
  if (here == there) return {};
  return TokenizerDifference{fmt::format("the text {}", quoted(text)),
                             fmt::format("[{}]", fmt::join(here, ", ")),
                             fmt::format("[{}]", fmt::join(there, ", "))};
}

}  // namespace

std::optional<TokenizerDifference> first_difference(const Tokenizer& own, const Tokenizer& other) {
  const std::int64_t size = own.size();
  for (Token id = 0; id < size; ++id) {
    const std::string here = meaning(own, id);
    if (here.empty()) continue;
    const std::string there = meaning(other, id);
    if (here != there)
      return TokenizerDifference{fmt::format("token {}", id), in_words(here), in_words(there)};
  }
  const std::int64_t stride = size / most_pieces + 1;
  for (std::int64_t i = 0; i < size; i += stride) {
    const auto id = static_cast<Token>(i);
    if (own.is_special(id) || other.is_special(id)) continue;
    std::string text = own.decode(std::array{id});
    // At the beginning of a text, forms of one SentencePiece tokenizer differ in what becomes of a space.
    if (text.starts_with(' ')) text.insert(0, "a");
    if (text.find("\ufffd") != std::string::npos) continue;  // a part of a character
    if (auto found = difference_on(own, other, text)) return found;
  }
  for (const char* sentence : sentences)
    if (auto found = difference_on(own, other, sentence)) return found;
  return {};
}

Checkpoint with_vocabulary(Checkpoint model, std::int64_t tokens) {
  for (auto& [name, tensor] : model.tensors) {
    if (name != "model.embed_tokens.weight" && !name.starts_with("lm_head.")) continue;
    const std::size_t row = tensor.data.size() / static_cast<std::size_t>(tensor.rows());
    tensor.data = tensor.data.first(row * static_cast<std::size_t>(tokens));
    tensor.shape[0] = tokens;
  }
  model.config.vocab_size = tokens;
  model.hf_config["vocab_size"] = tokens;
  return model;
}

}  // namespace fathom
