// Text that people bring: plain text, JSON lines, and zstd of either; read in a stream, never as a whole
// corpus.
#pragma once

#include <filesystem>
#include <functional>
#include <string>
#include <vector>

namespace fathom {

/// Calls `take` for every document, in the order of the files and of their lines, until it returns false.
/// *.jsonl, *.ndjson and these with .zst: one document a line, the string in `field`; blank lines are passed
/// over. Anything else: the whole file is one document (".zst" decompressed first). Throws Error naming file
/// and line (or byte): unreadable file, invalid JSON, missing field, invalid UTF-8, torn zstd frame, empty
/// input, a document of more than 1 GB or a JSON line of more than 256 MB.
void for_each_document(const std::vector<std::filesystem::path>& files, const std::string& field,
                       const std::function<bool(std::string&& text)>& take);

/// All documents joined by an empty line, for tools that measure on one text (perplexity, profiles); at most
/// 1 GB.
std::string read_text(const std::filesystem::path& file, const std::string& field = "text");

}  // namespace fathom
