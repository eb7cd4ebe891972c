// Tokens that stand beside the BPE vocabulary and are found in the text before anything else is done to it:
// "<|im_start|>", runs of spaces, ... ("added_tokens" of tokenizer.json).
#pragma once

#include <optional>
#include <string>
#include <string_view>
#include <unordered_map>
#include <utility>
#include <vector>

#include "base/json.h"
#include "text/bpe.h"
#include "text/normalizer.h"

namespace fathom {

struct AddedToken {
  Token id = 0;
  std::string content;
  bool special = false;      ///< left out when decoding with skip_special
  bool normalized = false;   ///< looked for, in its normalised form, in the normalised text
  bool single_word = false;  ///< only where no letter or digit touches it
  bool lstrip = false;       ///< takes the white space on its left with it
  bool rstrip = false;       ///< and on its right

  bool operator==(const AddedToken&) const = default;
};

/// A token from its object in tokenizer.json or a file beside it, without its id. `special` is what the
/// object says of that, or what is known otherwise; a special token is not normalised unless it says so.
/// Throws Error naming the field.
AddedToken read_added_token(const JsonObject& object, bool special);

class AddedTokens {
 public:
  AddedTokens() = default;
  AddedTokens(std::vector<AddedToken> tokens, const Normalizer& normalizer);

  /// A part of a text: an added token, or what lies between two.
  struct Part {
    std::optional<Token> token;
    std::size_t begin, end;
  };
  std::vector<Part> split_raw(std::string_view text) const { return split(text, raw_); }
  std::vector<Part> split_normalized(std::string_view text) const { return split(text, normalized_); }

  const AddedToken* find(std::string_view content) const;
  const AddedToken* find(Token id) const;
  /// What decoding starts from: the content, in its normalised form if it is matched in that.
  const std::string& decoded(const AddedToken& token) const;
  const std::vector<AddedToken>& all() const { return tokens_; }

 private:
  /// The longest of many strings that stands at a place.
  class Trie {
   public:
    void insert(std::string_view text, std::size_t value);
    bool empty() const { return nodes_.size() == 1; }
    /// (value, length)
    std::optional<std::pair<std::size_t, std::size_t>> longest(std::string_view text) const;

   private:
    struct Node {
      std::vector<std::pair<char, std::size_t>> next;
      std::optional<std::size_t> value;
    };
    std::vector<Node> nodes_{1};
  };
  std::vector<Part> split(std::string_view text, const Trie& trie) const;

  std::vector<AddedToken> tokens_;
  std::vector<std::string> decoded_;  // beside tokens_
  std::unordered_map<std::string, std::size_t> by_content_;
  std::unordered_map<Token, std::size_t> by_id_;
  Trie raw_, normalized_;
};

}  // namespace fathom
