// Byte-pair encoding (Sennrich et al. 2016) as Hugging Face's `tokenizers` does it: a vocabulary, ranked
// merges, and what becomes of characters that are not in the vocabulary.
#pragma once

#include <array>
#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <unordered_map>
#include <unordered_set>
#include <utility>
#include <vector>

namespace fathom {

using Token = std::int32_t;

/// Pieces and their ids, both ways.
class Vocabulary {
 public:
  Vocabulary() = default;
  /// `where` ("FILE: field 'x'") begins the message of the Error that an id used twice, negative, or far
  /// beyond the number of entries gives.
  Vocabulary(std::vector<std::pair<std::string, Token>>&& entries, const std::string& where);
  Vocabulary(Vocabulary&&) = default;
  Vocabulary& operator=(Vocabulary&&) = default;

  std::optional<Token> find(std::string_view piece) const;
  const std::string* piece(Token id) const;                         ///< nullptr when no piece has that id
  Token end() const { return static_cast<Token>(pieces_.size()); }  ///< one more than the largest id

 private:
  std::vector<std::string> pieces_;  // by id; never changed after construction, since ids_ points into it
  std::unordered_map<std::string_view, Token> ids_;
};

struct BpeOptions {
  std::optional<std::string> unknown;  ///< piece for characters that are not in the vocabulary; else dropped
  bool fuse_unknown = false;           ///< a run of unknown characters becomes one token
  bool byte_fallback = false;  ///< an unknown character becomes its bytes' tokens "<0x0A>" if all exist
  bool ignore_merges = false;  ///< a piece that is in the vocabulary is one token, whatever the merges
};

class Bpe {
 public:
  using Merges = std::vector<std::pair<std::string, std::string>>;  ///< best first
  /// Tokens of pieces met before; one for each text that is encoded.
  class Cache;

  /// Throws Error ("WHERE[12] ...") naming a merge of pieces that are not in the vocabulary.
  Bpe(Vocabulary vocabulary, const Merges& merges, BpeOptions options, const std::string& where);

  /// Appends the tokens of one piece (valid UTF-8). Time O(n log n).
  void encode(std::string_view piece, std::vector<Token>& out, Cache& cache) const;

  const Vocabulary& vocabulary() const { return vocabulary_; }

 private:
  struct Merge {
    std::uint32_t rank;
    Token merged;
  };
  struct Symbol;
  void encode_word(std::string_view word, std::vector<Token>& out, Cache& cache) const;
  std::size_t end_of_word(std::string_view piece, std::size_t begin) const;
  const Merge* find_merge(Token left, Token right) const;
  void merge_all(std::vector<Symbol>& symbols) const;
  std::vector<Symbol> characters(std::string_view piece) const;

  Vocabulary vocabulary_;
  BpeOptions options_;
  std::optional<Token> unknown_;
  std::array<Token, 0x180> frequent_{};  // ids of characters below U+0180, which has the byte-level alphabet
  std::array<Token, 256> bytes_{};       // ids of "<0x00>" ...; -1 where absent
  std::unordered_map<std::uint64_t, Merge> merges_;
  bool has_words_ = false;  // SentencePiece's visible space is in the vocabulary
  std::unordered_set<char32_t>
      before_words_;  // characters that some merge joins to a following visible space
};

class Bpe::Cache {
 public:
  std::optional<std::span<const Token>> find(std::string_view piece) const;
  void insert(std::string_view piece, std::span<const Token> tokens);

 private:
  struct Hash {
    using is_transparent = void;
    std::size_t operator()(std::string_view text) const { return std::hash<std::string_view>()(text); }
  };
  std::unordered_map<std::string, std::vector<Token>, Hash, std::equal_to<>> known_;
};

}  // namespace fathom
