// What stands beside tokenizer.json: tokenizer_config.json and its companions.
#include <algorithm>
#include <filesystem>
#include <optional>

#include "base/error.h"
#include "base/file.h"
#include "model/tokenizer_spec.h"

namespace fathom {
namespace {

namespace fs = std::filesystem;

/// The text of "bos_token": either a string or an object with "content".
std::optional<std::string> token_text(const JsonObject& object, const std::string& key) {
  const Json& value = object.at(key);
  if (value.is_string()) return value.get<std::string>();
  if (value.is_object() && value.contains("content")) return object.object(key).string("content");
  return std::nullopt;
}

void read_special_texts(const JsonObject& object, TokenizerConfig& config) {
  for (const auto& [key, value] : object.raw().items()) {
    if (!key.ends_with("_token")) continue;
    const bool known = std::any_of(config.special_texts.begin(), config.special_texts.end(),
                                   [&, &name = key](const auto& entry) { return entry.first == name; });
    if (const auto text = known ? std::nullopt : token_text(object, key))
      config.special_texts.emplace_back(key, *text);
  }
}

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
  TokenizerConfig config;
  for (const char* name : {"tokenizer_config.json", "special_tokens_map.json"}) {
    const fs::path file = directory / name;
    if (!fs::exists(file)) continue;
    const Json json = read_json(file);
    const JsonObject object(json, file.string());
    read_special_texts(object, config);
    if (config.chat_template.empty()) config.chat_template = read_chat_template(object);
  }
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
