// Tokens that the files beside tokenizer.json name: a model that was trained on further often has tokens that
// only tokenizer_config.json, special_tokens_map.json or added_tokens.json knows. Which file wins over which
// is as in transformers 5.
#pragma once

#include <string>
#include <utility>
#include <vector>

#include "text/added_tokens.h"

namespace fathom {

/// The ids of these tokens are not read: tokens that neither tokenizer.json nor the vocabulary has get the
/// next ids in this order.
struct CompanionTokens {
  /// added_tokens_decoder of tokenizer_config.json, by its ids; what it says of a token wins over
  /// tokenizer.json. A file that has it is complete: special_tokens_map.json and added_tokens.json are not
  /// looked at.
  std::vector<AddedToken> declared;
  /// added_tokens.json, by its ids; tokenizer.json wins.
  std::vector<AddedToken> listed;
  /// "bos_token", "image_token" and what else is named: from special_tokens_map.json, else from
  /// tokenizer_config.json. They are special; tokenizer.json wins.
  std::vector<std::pair<std::string, AddedToken>> named;
  /// extra_special_tokens, or additional_special_tokens as older files have it; tokenizer.json wins.
  std::vector<AddedToken> extra;
};

/// From tokenizer_config.json, special_tokens_map.json and added_tokens.json (empty objects where there is no
/// such file). Throws Error naming the field.
CompanionTokens read_companion_tokens(const JsonObject& config_file, const JsonObject& map_file,
                                      const JsonObject& added_file);

/// tokenizer.json's `tokens` with those of its companions. Throws Error naming `source` when no id is left.
std::vector<AddedToken> with_companions(std::vector<AddedToken> tokens, const CompanionTokens& companions,
                                        const Vocabulary& vocabulary, const std::string& source);

}  // namespace fathom
