// Cuts a normalised text into the pieces that BPE merges within ("pre_tokenizer" of tokenizer.json).
#pragma once

#include <functional>
#include <string>
#include <string_view>
#include <vector>

#include "base/json.h"
#include "text/normalizer.h"

namespace fathom {

/// The regular expression by which GPT-2 cuts text; what ByteLevel uses.
inline constexpr const char* gpt2_pattern =
    R"('s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+)";

/// GPT-2's alphabet: each byte as a visible character, so that every text is a sequence of them. Printable
/// Latin-1 stands for itself, the other 68 bytes for U+0100 and following.
char32_t byte_to_character(unsigned char byte);
/// The inverse; -1 for a character that is not in the alphabet.
int character_to_byte(char32_t character);

/// A text and how it is cut. Steps that change the text (ByteLevel, Metaspace) write it anew.
struct CutText {
  struct Piece {
    std::size_t begin, end;
    bool at_start;  ///< begins where the whole input does
  };
  std::string text;
  std::vector<Piece> pieces;  ///< none empty
};

class PreTokenizer {
 public:
  PreTokenizer() = default;  ///< does not cut
  /// From the object of tokenizer.json: ByteLevel, Split, Digits, Metaspace, Sequence. Throws Error naming
  /// the field; others are refused by name.
  explicit PreTokenizer(const JsonObject& object) { add(object, 0); }

  /// `at_start`: the text is the beginning of the input, not what follows an added token.
  CutText operator()(std::string text, bool at_start) const;

 private:
  void add(const JsonObject& object, int depth);
  std::vector<std::function<void(CutText&)>> steps_;
};

}  // namespace fathom
