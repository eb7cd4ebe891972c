// Text that people bring: plain text, JSON lines, and zstd of either; read in a stream, never as a whole
// corpus.
#pragma once

#include <cstdint>
#include <filesystem>
#include <functional>
#include <string>
#include <vector>

#include "base/json.h"

namespace fathom {

/// Calls `take` for every document, in the order of the files and of their lines, until it returns false.
/// *.jsonl, *.ndjson and these with .zst: one document a line, the string in `field`; blank lines are passed
/// over. Anything else: the whole file is one document (".zst" decompressed first). Throws Error naming file
/// and line (or byte): unreadable file, invalid JSON, missing field, invalid UTF-8, torn zstd frame, empty
/// input, a document of more than 1 GB or a JSON line of more than 256 MB.
void for_each_document(const std::vector<std::filesystem::path>& files, const std::string& field,
                       const std::function<bool(std::string&& text)>& take);

/// A document of a corpus, or a piece of one.
struct Document {
  std::string text;
  Json conversation;      ///< a list of messages in place of a text; null otherwise
  std::int64_t line = 0;  ///< where it stands in its file, from 1; 0: the file is one document
  bool more = false;      ///< the text goes on in the next piece
};

/// As for_each_document, for corpora of any size: plain text comes in pieces of about a megabyte, cut at line
/// ends where words and spaces are not torn apart; a JSON line whose field is a list is a conversation. An
/// empty `field` means "text" or, in a line without it, "messages". Throws Error likewise, and for a file
/// that is Parquet.
void read_documents(const std::filesystem::path& file, const std::string& field,
                    const std::function<bool(Document&& document)>& take);

/// All documents joined by an empty line, for tools that measure on one text (perplexity, profiles); at most
/// 1 GB.
std::string read_text(const std::filesystem::path& file, const std::string& field = "text");

}  // namespace fathom
