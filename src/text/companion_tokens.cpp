#include "text/companion_tokens.h"

#include <algorithm>
#include <array>
#include <charconv>
#include <limits>
#include <string_view>
#include <unordered_map>

#include "base/error.h"
#include "base/json.h"
#include "text/tokenizer_spec.h"

namespace fathom {
namespace {

// These come first, in this order, and special_tokens_map.json wins.
constexpr std::array<std::string_view, 7> standard_names = {
    "bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token"};

/// One of the two files that name tokens.
struct Naming {
  JsonObject object;
  bool special;  ///< what a token is that does not say
};

/// A string, or an object with "content"; nothing for what is neither ("add_bos_token": true).
std::optional<AddedToken> token_at(const Naming& naming, const JsonObject& parent, const std::string& key) {
  if (!parent.has(key)) return std::nullopt;
  const Json& value = parent.at(key);
  if (value.is_string()) return AddedToken{.content = value.get<std::string>(), .special = true};
  if (!value.is_object() || !value.contains("content")) return std::nullopt;
  const JsonObject object = parent.object(key);
  return read_added_token(object, object.boolean_or("special", naming.special));
}

class NamedTokens {
 public:
  explicit NamedTokens(CompanionTokens& tokens) : named_(tokens.named) {}

  void add_standard(const Naming& config, const Naming& map) {
    for (const std::string_view name : standard_names) {
      const std::string key(name);
      auto token = token_at(map, map.object, key);
      if (!token) token = token_at(config, config.object, key);
      if (token) put(key, std::move(*token));
    }
  }

  /// What else is called "..._token"; the last one put wins.
  void add_others(const Naming& naming) {
    for (const auto& [key, value] : naming.object.raw().items()) {
      if (!key.ends_with("_token") || std::ranges::find(standard_names, key) != standard_names.end())
        continue;
      if (auto token = token_at(naming, naming.object, key)) put(key, std::move(*token));
    }
  }

  /// extra_special_tokens where it gives names.
  void add_extra(const Naming& naming) {
    constexpr const char* key = "extra_special_tokens";
    if (!naming.object.has(key) || !naming.object.at(key).is_object()) return;
    const JsonObject extra = naming.object.object(key);
    for (const auto& [name, value] : extra.raw().items())
      if (auto token = token_at(naming, extra, name)) put(name, std::move(*token));
  }

 private:
  void put(const std::string& name, AddedToken token) {
    token.special = true;
    const auto known = std::ranges::find(named_, name, &std::pair<std::string, AddedToken>::first);
    if (known == named_.end()) {
      named_.emplace_back(name, std::move(token));
    } else {
      known->second = std::move(token);
    }
  }

  std::vector<std::pair<std::string, AddedToken>>& named_;
};

/// The tokens of a list; none where names are given instead.
std::vector<AddedToken> token_list(const Naming& naming, const std::string& key) {
  std::vector<AddedToken> tokens;
  if (!naming.object.has(key) || naming.object.at(key).is_object()) return tokens;
  for (const Json& value : naming.object.array(key)) {
    const Json entry = {{key, value}};  // so that a string and an object are read alike
    auto token = token_at(naming, JsonObject(entry, naming.object.field(key)), key);
    if (!token)
      fail("{} holds {}, expected tokens: strings, or objects with 'content'", naming.object.field(key),
           value.type_name());
    tokens.push_back(std::move(*token));
  }
  return tokens;
}

std::vector<AddedToken> extra_tokens(const Naming& config, const Naming& map) {
  std::vector<AddedToken> extra = token_list(config, "extra_special_tokens");
  if (extra.empty()) extra = token_list(config, "additional_special_tokens");
  std::ranges::move(token_list(map, "extra_special_tokens"), std::back_inserter(extra));
  if (extra.empty()) extra = token_list(map, "additional_special_tokens");
  return extra;
}

/// added_tokens_decoder: {"32000": {"content": "<pad>", ...}, ...}.
std::vector<AddedToken> declared_tokens(const JsonObject& decoder) {
  std::vector<AddedToken> tokens;
  for (const auto& [key, value] : decoder.raw().items()) {
    const JsonObject object = decoder.object(key);
    AddedToken token = read_added_token(object, object.boolean_or("special", false));
    const auto [end, error] = std::from_chars(key.data(), key.data() + key.size(), token.id);
    if (error != std::errc() || end != key.data() + key.size() || token.id < 0)
      fail("{} has a key that is no token id", decoder.field(key));
    tokens.push_back(std::move(token));
  }
  std::ranges::stable_sort(tokens, {}, &AddedToken::id);
  return tokens;
}

/// added_tokens.json: {"<pad>": 32000, ...}. Only other files tell that a token is special.
std::vector<AddedToken> listed_tokens(const JsonObject& added, const CompanionTokens& others) {
  const auto is_special = [&](const std::string& content) {
    return std::ranges::any_of(others.named, [&](const auto& n) { return n.second.content == content; }) ||
           std::ranges::find(others.extra, content, &AddedToken::content) != others.extra.end();
  };
  std::vector<AddedToken> tokens;
  for (const auto& [content, id] : added.raw().items()) {
    const bool special = is_special(content);
    tokens.push_back({.id = read_token_id(id, added.field(content)),
                      .content = content,
                      .special = special,
                      .normalized = !special});
  }
  std::ranges::stable_sort(tokens, {}, &AddedToken::id);
  return tokens;
}

/// Added tokens by content, and the next id.
class Collector {
 public:
  Collector(std::vector<AddedToken> tokens, const Vocabulary& vocabulary, const std::string& source)
      : tokens_(std::move(tokens)), vocabulary_(vocabulary), source_(source), next_(vocabulary.end()) {
    for (std::size_t i = 0; i < tokens_.size(); ++i) {
      by_content_.emplace(tokens_[i].content, i);
      next_ = std::max(next_, std::int64_t{tokens_[i].id} + 1);
    }
  }

  const AddedToken* find(const std::string& content) const {
    const auto found = by_content_.find(content);
    return found == by_content_.end() ? nullptr : &tokens_[found->second];
  }

  /// Adds a token, or changes what is known of it but for its id; what is special stays so.
  void put(AddedToken token) {
    const auto [place, is_new] = by_content_.emplace(token.content, tokens_.size());
    if (is_new) {
      const auto known = vocabulary_.find(token.content);
      token.id = known ? *known : next_id(token.content);
      tokens_.push_back(std::move(token));
    } else {
      AddedToken& known = tokens_[place->second];
      token.id = known.id;
      token.special = token.special || known.special;
      known = std::move(token);
    }
  }

  void put_if_new(const AddedToken& token) {
    if (!token.content.empty() && find(token.content) == nullptr) put(token);
  }

  std::vector<AddedToken> take() { return std::move(tokens_); }

 private:
  Token next_id(const std::string& content) {
    if (next_ > std::numeric_limits<Token>::max())
      fail("{}: there is no id left for the token '{}' of the files beside it", source_, content);
    return static_cast<Token>(next_++);
  }

  std::vector<AddedToken> tokens_;
  const Vocabulary& vocabulary_;
  const std::string& source_;
  std::int64_t next_;
  std::unordered_map<std::string, std::size_t> by_content_;
};

}  // namespace

CompanionTokens read_companion_tokens(const JsonObject& config_file, const JsonObject& map_file,
                                      const JsonObject& added_file) {
  const auto decoder = config_file.object_if("added_tokens_decoder");
  const Json nothing = Json::object();
  const Naming config{config_file, false};
  const Naming map{decoder ? JsonObject(nothing, "") : map_file, true};
  CompanionTokens tokens;
  NamedTokens named(tokens);
  named.add_standard(config, map);
  named.add_others(map);
  named.add_others(config);
  named.add_extra(config);
  named.add_extra(map);
  tokens.extra = extra_tokens(config, map);
  if (decoder) {
    tokens.declared = declared_tokens(*decoder);
  } else {
    tokens.listed = listed_tokens(added_file, tokens);
  }
  return tokens;
}

std::vector<AddedToken> with_companions(std::vector<AddedToken> tokens, const CompanionTokens& companions,
                                        const Vocabulary& vocabulary, const std::string& source) {
  const auto is_named = [&](const std::string& content) {
    return std::ranges::any_of(companions.named,
                               [&](const auto& entry) { return entry.second.content == content; });
  };
  Collector all(std::move(tokens), vocabulary, source);
  for (AddedToken token : companions.declared) {
    if (const AddedToken* known = all.find(token.content)) {
      token.id = known->id;
      if (token == *known) continue;
    }
    token.special = token.special || is_named(token.content);
    if (!token.content.empty()) all.put(std::move(token));
  }
  for (const AddedToken& token : companions.listed) all.put_if_new(token);
  for (const auto& [name, token] : companions.named) all.put_if_new(token);
  for (const AddedToken& token : companions.extra) all.put_if_new(token);
  return all.take();
}

}  // namespace fathom
