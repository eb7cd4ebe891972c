#include "corpus/inputs.h"

#include <glob.h>

#include <algorithm>

#include "base/error.h"
#include "formats/text_format.h"

namespace fathom {
namespace {

namespace fs = std::filesystem;

std::vector<fs::path> below(const fs::path& directory) {
  std::vector<fs::path> files;
  for (auto entry = fs::recursive_directory_iterator(directory); entry != fs::end(entry); ++entry) {
    const bool hidden = entry->path().filename().string().starts_with('.');
    if (hidden && entry->is_directory()) entry.disable_recursion_pending();
    if (!hidden && entry->is_regular_file() && is_named_text(entry->path())) files.push_back(entry->path());
  }
  if (files.empty()) {
    fail(
        "{}: no text in this directory, expected *.txt, *.md, *.json, *.jsonl or *.ndjson, or these with "
        ".zst",
        directory.string());
  }
  return files;
}

std::vector<fs::path> matching(const std::string& pattern) {
  glob_t found{};
  const int problem = ::glob(pattern.c_str(), 0, nullptr, &found);
  std::vector<fs::path> files;
  for (std::size_t i = 0; problem == 0 && i < found.gl_pathc; ++i) {
    if (fs::is_regular_file(found.gl_pathv[i])) files.emplace_back(found.gl_pathv[i]);
  }
  ::globfree(&found);
  if (files.empty()) fail("{}: no file matches this pattern", pattern);
  return files;
}

}  // namespace

std::vector<fs::path> find_inputs(const std::string& name) {
  std::vector<fs::path> files = {name};
  if (fs::is_directory(name)) {
    files = below(name);
  } else if (!fs::exists(name) && name.find_first_of("*?[") != std::string::npos) {
    files = matching(name);
  }
  std::ranges::sort(files);
  return files;
}

}  // namespace fathom
