// A corpus as tokens: documents laid end to end, each followed by the separator, in memory or in mapped
// files.
//
// A run tokenises its text once, into files of its folder. That makes what training needs of its data simple
// and exact: any sequence can be read at any time, an epoch is a permutation, and a position is all that a
// run needs to go on. Four bytes a token are about what the text itself takes. A token that is read but not
// learned (all of a conversation that the assistant does not say) stands as ~id, which is negative.
#pragma once

#include <cstdint>
#include <filesystem>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "formats/text_format.h"
#include "text/tokenizer.h"

namespace fathom {

/// Where a document starts, and where it comes from.
struct DocumentStart {
  std::int64_t token = 0;
  std::int64_t file = 0;  ///< index into TokenStore::files
  std::int64_t line = 0;  ///< of that file; 0: the file is the document
};

struct TokenStore {
  std::span<const Token> tokens;
  std::span<const DocumentStart> documents;  ///< by token; none is empty
  std::vector<std::string> files;
  std::string digest;  ///< of tokens and documents
  std::shared_ptr<const void> owner;

  std::int64_t size() const { return static_cast<std::int64_t>(tokens.size()); }
  /// Index of the document that token number `token` belongs to, its separator included.
  std::int64_t document_of(std::int64_t token) const;
  /// "wiki.jsonl line 7".
  std::string describe(std::int64_t document) const;
};

/// Documents that are in memory already; `origin` names them in messages. Empty ones are left out.
TokenStore store_documents(const std::vector<std::vector<Token>>& documents, Token separator,
                           const std::string& origin);

/// Text to tokenise.
struct TextInput {
  std::vector<std::filesystem::path> files;
  TextReading reading;
  /// Reading ends with the document that reaches so many, those left out that lie in a sequence of `context`
  /// tokens of which none is learned.
  std::int64_t most_tokens = 0;
  std::int64_t context = 512;
};

/// Tokenises into memory. Throws Error naming file and line: what formats/documents.h and
/// corpus/document_encoder.h throw for a model's vocabulary of `vocab`, no text at all. Shows a progress bar;
/// a signal throws Interrupted.
TokenStore read_tokens(const TextInput& input, const Tokenizer& tokenizer, std::int64_t vocab);

/// The same in files of `folder` (tokens.bin, documents.bin; cache.json says of what, and is written last), a
/// few megabytes in memory at a time. Files of an earlier call are used again if they are whole and were made
/// from the same: names, sizes and times of the input's files, the reading, the tokenizer, context and
/// most_tokens; the last may be another where a run goes on (`resume`), which needs the text that it began
/// with.
TokenStore cached_tokens(const TextInput& input, const Tokenizer& tokenizer, std::int64_t vocab,
                         const std::filesystem::path& folder, bool resume);

}  // namespace fathom
