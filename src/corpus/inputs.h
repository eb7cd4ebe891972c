// What a user names as a corpus: files, directories, patterns.
#pragma once

#include <filesystem>
#include <string>
#include <vector>

namespace fathom {

/// The files that `name` stands for, sorted: a file itself; all of a directory and those below it that are
/// named as text (formats/text_format.h: *.txt, *.md, *.json, *.jsonl, ...), hidden ones left out; or those
/// that a shell's pattern (*, ?,
/// [...]) matches. Throws Error when there are none.
std::vector<std::filesystem::path> find_inputs(const std::string& name);

}  // namespace fathom
