// What stands beside tokenizer.json: tokenizer_config.json and its companions.
#include <filesystem>

#include "base/error.h"
#include "base/file.h"
#include "text/tokenizer_spec.h"

namespace fathom {
namespace {

namespace fs = std::filesystem;

/// A file beside tokenizer.json; an empty object if it is not there.
struct CompanionFile {
  explicit CompanionFile(const fs::path& file)
      : json(fs::exists(file) ? read_json(file) : Json::object()), object(json, file.string()) {}
  CompanionFile(const CompanionFile&) = delete;
  CompanionFile& operator=(const CompanionFile&) = delete;

  const Json json;
  const JsonObject object;  // of json
};

/// A template, or several with names, of which "default" is meant.
std::string read_chat_template(const JsonObject& config) {
  if (!config.has("chat_template")) return {};
  if (!config.at("chat_template").is_array()) return config.string("chat_template");
  for (const JsonObject& entry : config.objects("chat_template"))
    if (entry.string("name") == "default") return entry.string("template");
  return {};
}

/// "eos_token_id": 2 or [1, 106]; null and -1 are no token.
void read_end_ids(const fs::path& file, TokenizerConfig& config) {
  const Json json = read_json(file);
  const JsonObject object(json, file.string());
  if (!object.has("eos_token_id")) return;
  const Json& ids = object.at("eos_token_id");
  const std::string field = object.field("eos_token_id");
  for (const Json& id : ids.is_array() ? ids : Json::array({ids}))
    if (!id.is_null() && id != Json(-1)) config.end_ids.push_back(read_token_id(id, field));
}

}  // namespace

TokenizerConfig read_tokenizer_config(const fs::path& directory) {
  const CompanionFile config_file(directory / "tokenizer_config.json"),
      map_file(directory / "special_tokens_map.json"), added_file(directory / "added_tokens.json");
  TokenizerConfig config;
  config.tokens = read_companion_tokens(config_file.object, map_file.object, added_file.object);
  for (const auto& [name, token] : config.tokens.named)
    config.special_texts.emplace_back(name, token.content);
  config.chat_template = read_chat_template(config_file.object);
  if (config.chat_template.empty()) config.chat_template = read_chat_template(map_file.object);
  // The newer place; transformers prefers it.
  if (fs::exists(directory / "chat_template.jinja"))
    config.chat_template = read_file(directory / "chat_template.jinja", 16 << 20);
  for (const char* name : {"generation_config.json", "config.json"}) {
    if (config.end_ids.empty() && fs::exists(directory / name)) read_end_ids(directory / name, config);
  }
  return config;
}

std::string tokenizer_config_json(const TokenizerConfig& config) {
  Json json = {{"tokenizer_class", "PreTrainedTokenizerFast"}, {"clean_up_tokenization_spaces", false}};
  for (const auto& [name, text] : config.special_texts) json[name] = text;
  if (!config.chat_template.empty()) json["chat_template"] = config.chat_template;
  return json.dump(2) + "\n";
}

}  // namespace fathom
