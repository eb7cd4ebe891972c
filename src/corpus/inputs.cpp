#include "corpus/inputs.h"

#include <glob.h>

#include <algorithm>
#include <array>
#include <string_view>

#include "base/error.h"

namespace fathom {
namespace {

namespace fs = std::filesystem;

bool is_text(const fs::path& file) {
  static constexpr std::array<std::string_view, 4> endings{".txt", ".md", ".jsonl", ".ndjson"};
  const fs::path plain = file.extension() == ".zst" ? file.stem() : file.filename();
  return std::ranges::find(endings, plain.extension().string()) != endings.end();
}

std::vector<fs::path> below(const fs::path& directory) {
  std::vector<fs::path> files;
  for (auto entry = fs::recursive_directory_iterator(directory); entry != fs::end(entry); ++entry) {
    const bool hidden = entry->path().filename().string().starts_with('.');
    if (hidden && entry->is_directory()) entry.disable_recursion_pending();
    if (!hidden && entry->is_regular_file() && is_text(entry->path())) files.push_back(entry->path());
  }
  if (files.empty()) {
    fail("{}: no text in this directory, expected *.txt, *.md, *.jsonl or *.ndjson, or these with .zst",
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
