// Text that people bring: plain text, records of JSON, and zstd of either; read in a stream, never as a whole
// corpus.
#pragma once

#include <cstdint>
#include <filesystem>
#include <functional>
#include <string>
#include <vector>

#include "base/json.h"
#include "formats/text_format.h"

namespace fathom {

/// A document of a corpus, or a piece of one.
struct Document {
  std::string text;
  Json conversation;      ///< a list of messages in place of a text; null otherwise
  std::int64_t file = 0;  ///< which of the files
  std::int64_t line = 0;  ///< where it begins in its file, from 1; 0: the file is one document
  bool more = false;      ///< the text goes on in the next piece
};

/// Calls `take` for every document, in the order of the files and of their records, until it returns false.
/// What each file is follows from its name and its beginning (text_format.h), and is said in a note, with the
/// first words. Plain text is one document and comes in pieces of about a megabyte, cut at line ends where
/// words and spaces are not torn apart. A record whose field is a list is a conversation; blank lines are
/// passed over. Throws Error naming file and line (or byte): unreadable file, a format that is not read,
/// invalid JSON, missing field, invalid UTF-8, torn zstd frame, empty input, a record of more than 256 MB.
void read_documents(const std::vector<std::filesystem::path>& files, const TextReading& reading,
                    const std::function<bool(Document&& document)>& take);

/// As read_documents, for those who want each text as a whole: also throws Error for a conversation, and for
/// a document of more than 1 GB.
void for_each_document(const std::vector<std::filesystem::path>& files, const TextReading& reading,
                       const std::function<bool(std::string&& text)>& take);

/// All texts joined by an empty line, for tools that measure on one text (perplexity, profiles); at most
/// 1 GB. Of JSON's records the field "text".
std::string read_text(const std::filesystem::path& file, TextFormat format = TextFormat::automatic);

}  // namespace fathom
