// What tokenizer.json says, wherever it came from: the file itself, or a GGUF file's own keys put into the
// same form. Vocabulary and merges stand apart from the rest, since a JSON document of half a million entries
// is slow and large.
#pragma once

#include <filesystem>
#include <string>
#include <utility>
#include <vector>

#include "base/json.h"
#include "formats/gguf.h"
#include "text/bpe.h"
#include "text/companion_tokens.h"

namespace fathom {

struct TokenizerSpec {
  std::string source;  ///< the file, for messages
  Json rest;           ///< tokenizer.json without model.vocab and model.merges
  std::vector<std::pair<std::string, Token>> vocabulary;
  Bpe::Merges merges;
};

/// A token's id, from JSON. `field` ("FILE: field 'x'") begins the message of the Error.
Token read_token_id(const Json& value, const std::string& field);

/// Reads tokenizer.json. Throws Error naming file and field.
TokenizerSpec read_tokenizer_json(const std::filesystem::path& file);

/// The text of a tokenizer.json.
std::string tokenizer_json(const TokenizerSpec& spec);

/// Whether the file has a tokenizer, and does not say that it has none.
bool has_gguf_tokenizer(const GgufFile& file);

/// From tokenizer.ggml.*: models "gpt2" (by tokenizer.ggml.pre) and "llama" (SentencePiece, merges from
/// scores). Throws Error naming file and key; other models and pre-tokenizers are refused by name.
TokenizerSpec tokenizer_spec_from_gguf(const GgufFile& file);

/// What stands beside tokenizer.json: which token is which, and how a chat is written.
struct TokenizerConfig {
  std::vector<std::pair<std::string, std::string>> special_texts;  ///< "bos_token": "<s>", ...
  CompanionTokens tokens;                                          ///< that tokenizer.json may lack
  std::string chat_template;
  std::vector<Token> end_ids;  ///< at which generation ends, by number; first the end of text
};

/// Reads what there is of tokenizer_config.json, special_tokens_map.json, chat_template.jinja,
/// generation_config.json and config.json. Throws Error naming file and field.
TokenizerConfig read_tokenizer_config(const std::filesystem::path& directory);
TokenizerConfig tokenizer_config_from_gguf(const GgufFile& file);

/// The text of a tokenizer_config.json that transformers reads.
std::string tokenizer_config_json(const TokenizerConfig& config);

}  // namespace fathom
