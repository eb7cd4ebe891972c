// A document as tokens: which of them are learned, and what ends it.
#pragma once

#include <cstdint>
#include <filesystem>
#include <optional>
#include <vector>

#include "formats/documents.h"
#include "text/chat_template.h"
#include "text/tokenizer.h"

namespace fathom {

class DocumentEncoder {
 public:
  /// For a model with a vocabulary of `vocab`. Throws Error for a tokenizer without an end-of-text token. The
  /// tokenizer must outlive it.
  DocumentEncoder(const Tokenizer& tokenizer, std::int64_t vocab);

  /// Its ids, ~id where a token is read but not learned. Throws Error naming file and line: a conversation
  /// that cannot be rendered (corpus/conversation.h) or for which there is no template, a token that the
  /// vocabulary does not have.
  std::vector<Token> encode(const Document& document, const std::filesystem::path& file) const;
  /// The token that stands behind the document, likewise.
  Token separator(const Document& document) const;

 private:
  const Tokenizer& tokenizer_;
  std::int64_t vocab_;
  std::optional<ChatTemplate> template_;
};

}  // namespace fathom
