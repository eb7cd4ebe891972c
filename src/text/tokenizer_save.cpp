// A model's tokenizer into another directory.
#include <array>

#include "base/file.h"
#include "text/tokenizer.h"
#include "text/tokenizer_spec.h"

namespace fathom {
namespace {

namespace fs = std::filesystem;

constexpr std::array files = {"tokenizer.json",
                              "tokenizer_config.json",
                              "special_tokens_map.json",
                              "added_tokens.json",
                              "tokenizer.model",
                              "spiece.model",
                              "tekken.json",
                              "vocab.json",
                              "merges.txt",
                              "vocab.txt",
                              "chat_template.jinja",
                              "chat_template.json",
                              "additional_chat_templates"};

void save_from_gguf(const GgufFile& file, const fs::path& directory) {
  if (!has_gguf_tokenizer(file)) return;
  write_file(directory / "tokenizer.json", tokenizer_json(tokenizer_spec_from_gguf(file)));
  write_file(directory / "tokenizer_config.json", tokenizer_config_json(tokenizer_config_from_gguf(file)));
}

}  // namespace

std::span<const char* const> tokenizer_files() { return files; }

void save_tokenizer(const fs::path& model, const fs::path& directory) {
  if (fs::is_regular_file(model) && is_gguf(model)) return save_from_gguf(GgufFile(model), directory);
  const fs::path source = fs::is_directory(model) ? model : model.parent_path();
  for (const char* name : files) {
    if (fs::is_directory(source / name)) {
      fs::copy(source / name, directory / name, fs::copy_options::recursive);
    } else if (fs::exists(source / name)) {
      write_file(directory / name, read_file(source / name));
    }
  }
}

}  // namespace fathom
