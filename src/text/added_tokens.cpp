#include "text/added_tokens.h"

#include <algorithm>

#include "text/unicode.h"

namespace fathom {
namespace {

bool ends_with_word(std::string_view text) {
  if (text.empty()) return false;
  std::size_t at = last_character(text);
  return is_word(next_code_point(text, at));
}

bool starts_with_word(std::string_view text) {
  std::size_t at = 0;
  return !text.empty() && is_word(next_code_point(text, at));
}

std::size_t end_of_leading_space(std::string_view text, std::size_t at) {
  while (at < text.size()) {
    std::size_t next = at;
    if (!is_white_space(next_code_point(text, next))) break;
    at = next;
  }
  return at;
}

std::size_t start_of_trailing_space(std::string_view text, std::size_t least) {
  while (text.size() > least) {
    const std::size_t last = last_character(text);
    std::size_t at = last;
    if (!is_white_space(next_code_point(text, at))) break;
    text = text.substr(0, last);
  }
  return text.size();
}

}  // namespace

AddedToken read_added_token(const JsonObject& object, bool special) {
  return {.content = object.string("content"),
          .special = special,
          .normalized = object.boolean_or("normalized", !special),
          .single_word = object.boolean_or("single_word", false),
          .lstrip = object.boolean_or("lstrip", false),
          .rstrip = object.boolean_or("rstrip", false)};
}

void AddedTokens::Trie::insert(std::string_view text, std::size_t value) {
  std::size_t node = 0;
  for (const char c : text) {
    auto& next = nodes_[node].next;
    const auto found =
        std::find_if(next.begin(), next.end(), [c](const auto& edge) { return edge.first == c; });
    if (found != next.end()) {
      node = found->second;
    } else {
      next.emplace_back(c, nodes_.size());
      node = nodes_.size();
      nodes_.emplace_back();
    }
  }
  nodes_[node].value = value;
}

std::optional<std::pair<std::size_t, std::size_t>> AddedTokens::Trie::longest(std::string_view text) const {
  std::optional<std::pair<std::size_t, std::size_t>> best;
  std::size_t node = 0;
  for (std::size_t length = 0;; ++length) {
    if (nodes_[node].value && length > 0) best = {*nodes_[node].value, length};
    if (length == text.size()) return best;
    const auto& next = nodes_[node].next;
    const auto found =
        std::find_if(next.begin(), next.end(), [&](const auto& edge) { return edge.first == text[length]; });
    if (found == next.end()) return best;
    node = found->second;
  }
}

AddedTokens::AddedTokens(std::vector<AddedToken> tokens, const Normalizer& normalizer)
    : tokens_(std::move(tokens)) {
  for (std::size_t i = 0; i < tokens_.size(); ++i) {
    const AddedToken& token = tokens_[i];
    bool at_start = true;
    decoded_.push_back(token.normalized ? normalizer(token.content, at_start) : token.content);
    (token.normalized ? normalized_ : raw_).insert(decoded_.back(), i);
    by_content_.emplace(token.content, i);
    by_id_.emplace(token.id, i);
  }
}

std::vector<AddedTokens::Part> AddedTokens::split(std::string_view text, const Trie& trie) const {
  std::vector<Part> parts;
  std::size_t done = 0;
  for (std::size_t at = 0; at < text.size() && !trie.empty();) {
    const auto match = trie.longest(text.substr(at));
    if (!match) {
      ++at;
      continue;
    }
    const AddedToken& token = tokens_[match->first];
    std::size_t begin = at, end = at + match->second;
    at = end;
    if (token.single_word && (ends_with_word(text.substr(0, begin)) || starts_with_word(text.substr(end))))
      continue;
    // The match before may have taken this white space already.
    if (token.lstrip) begin = start_of_trailing_space(text.substr(0, begin), std::min(done, begin));
    if (token.rstrip) end = end_of_leading_space(text, end);
    if (done < begin) parts.push_back({std::nullopt, done, begin});
    parts.push_back({token.id, begin, end});
    done = end;
  }
  if (done < text.size()) parts.push_back({std::nullopt, done, text.size()});
  return parts;
}

const AddedToken* AddedTokens::find(std::string_view content) const {
  const auto found = by_content_.find(std::string(content));
  return found == by_content_.end() ? nullptr : &tokens_[found->second];
}

const AddedToken* AddedTokens::find(Token id) const {
  const auto found = by_id_.find(id);
  return found == by_id_.end() ? nullptr : &tokens_[found->second];
}

const std::string& AddedTokens::decoded(const AddedToken& token) const {
  return decoded_[static_cast<std::size_t>(&token - tokens_.data())];
}

}  // namespace fathom
