#include "text/bpe.h"

#include <algorithm>
#include <queue>

#include "base/error.h"
#include "text/unicode.h"

namespace fathom {
namespace {

constexpr Token no_token = -1;
constexpr std::int32_t no_neighbour = -1;             // no neighbour
constexpr std::string_view visible_space = "\u2581";  // SentencePiece's visible space
// Ids may have gaps, but a lone id of two thousand million must not cost that much memory.
constexpr std::size_t most_id_gaps = 1 << 20;
// Longer pieces hardly come twice; a cache of this many words holds nearly all of a natural text.
constexpr std::size_t longest_cached = 64;
constexpr std::size_t most_cached = 1 << 17;

std::uint64_t pair_key(Token left, Token right) {
  return std::uint64_t{static_cast<std::uint32_t>(left)} << 32 | static_cast<std::uint32_t>(right);
}

}  // namespace

Vocabulary::Vocabulary(std::vector<std::pair<std::string, Token>>&& entries, const std::string& where) {
  Token largest = -1;
  for (const auto& [piece, id] : entries) {
    if (id < 0 || static_cast<std::size_t>(id) > entries.size() + most_id_gaps)
      fail("{} gives '{}' the id {}, expected one from 0 to about the number of pieces, {}", where, piece, id,
           entries.size());
    largest = std::max(largest, id);
  }
  pieces_.resize(static_cast<std::size_t>(largest) + 1);
  std::vector<bool> taken(pieces_.size());
  for (auto& [piece, id] : entries) {
    if (taken[id]) fail("{} gives id {} to both '{}' and '{}'", where, id, pieces_[id], piece);
    taken[id] = true;
    pieces_[id] = std::move(piece);
  }
  ids_.reserve(entries.size());
  for (Token id = 0; id < end(); ++id) {
    if (taken[id] && !ids_.emplace(pieces_[id], id).second)
      fail("{} has '{}' twice, as id {} and {}", where, pieces_[id], ids_.at(pieces_[id]), id);
  }
}

std::optional<Token> Vocabulary::find(std::string_view piece) const {
  const auto found = ids_.find(piece);
  if (found == ids_.end()) return std::nullopt;
  return found->second;
}

const std::string* Vocabulary::piece(Token id) const {
  if (id < 0 || id >= end()) return nullptr;
  const std::string& piece = pieces_[id];
  // Gaps between ids are empty here; the empty piece is one only if it was given.
  return piece.empty() && find(piece) != id ? nullptr : &piece;
}

std::optional<std::span<const Token>> Bpe::Cache::find(std::string_view piece) const {
  const auto found = known_.find(piece);
  if (found == known_.end()) return std::nullopt;
  return found->second;
}

void Bpe::Cache::insert(std::string_view piece, std::span<const Token> tokens) {
  if (piece.size() <= longest_cached && known_.size() < most_cached)
    known_.emplace(piece, std::vector<Token>(tokens.begin(), tokens.end()));
}

/// A token in the making: a link of the chain that merging shortens. A merged symbol stays at its left part's
/// place; its right part is unlinked.
struct Bpe::Symbol {
  Token token;
  std::int32_t previous, next;
  bool gone = false;
};

Bpe::Bpe(Vocabulary vocabulary, const Merges& merges, BpeOptions options, const std::string& where)
    : vocabulary_(std::move(vocabulary)), options_(std::move(options)) {
  merges_.reserve(merges.size());
  std::string whole;
  for (std::size_t i = 0; i < merges.size(); ++i) {
    const std::string &left = merges[i].first, &right = merges[i].second;
    whole.assign(left).append(right);
    const auto known = [&](const std::string& piece) {
      const auto id = vocabulary_.find(piece);
      if (!id)
        fail("{}[{}] merges '{}' and '{}', but '{}' is not in the vocabulary", where, i, left, right, piece);
      return *id;
    };
    const std::uint64_t key = pair_key(known(left), known(right));
    merges_[key] = {static_cast<std::uint32_t>(i), known(whole)};
    if (right.starts_with(visible_space) && !left.empty()) {
      std::size_t last = last_character(left);
      before_words_.insert(next_code_point(left, last));
    }
  }
  has_words_ = vocabulary_.find(visible_space).has_value();
  if (options_.unknown) {
    unknown_ = vocabulary_.find(*options_.unknown);
    if (!unknown_) fail("{}: the unknown token '{}' is not in the vocabulary", where, *options_.unknown);
  }
  for (std::size_t c = 0; c < frequent_.size(); ++c) {
    std::string character;
    append_utf8(character, static_cast<char32_t>(c));
    frequent_[c] = vocabulary_.find(character).value_or(no_token);
  }
  for (std::size_t byte = 0; byte < bytes_.size(); ++byte)
    bytes_[byte] = vocabulary_.find(fmt::format("<0x{:02X}>", byte)).value_or(no_token);
}

const Bpe::Merge* Bpe::find_merge(Token left, Token right) const {
  const auto found = merges_.find(pair_key(left, right));
  return found == merges_.end() ? nullptr : &found->second;
}

std::vector<Bpe::Symbol> Bpe::characters(std::string_view piece) const {
  std::vector<Symbol> symbols;
  symbols.reserve(piece.size());
  const auto add = [&](Token token) {
    const auto place = static_cast<std::int32_t>(symbols.size());
    symbols.push_back({token, place - 1, place + 1});
  };
  bool unknown_waits = false;
  for (std::size_t at = 0; at < piece.size();) {
    const std::size_t begin = at;
    const char32_t c = next_code_point(piece, at);
    const std::string_view character = piece.substr(begin, at - begin);
    const Token id = c < frequent_.size() ? frequent_[c] : vocabulary_.find(character).value_or(no_token);
    if (id != no_token) {
      if (std::exchange(unknown_waits, false)) add(*unknown_);
      add(id);
      continue;
    }
    if (options_.byte_fallback) {
      const auto token = [&](char byte) { return bytes_[static_cast<unsigned char>(byte)]; };
      if (std::all_of(character.begin(), character.end(),
                      [&](char byte) { return token(byte) != no_token; })) {
        for (const char byte : character) add(token(byte));
        continue;
      }
    }
    if (!unknown_) continue;
    if (unknown_waits && !options_.fuse_unknown) add(*unknown_);
    unknown_waits = true;
  }
  if (unknown_waits) add(*unknown_);
  if (!symbols.empty()) symbols.back().next = no_neighbour;
  return symbols;
}

void Bpe::merge_all(std::vector<Symbol>& symbols) const {
  struct Candidate {
    std::uint32_t rank;
    std::int32_t place;  // of the left symbol
    Token merged;
    bool operator<(const Candidate& other) const {  // the queue's top is the best rank, then the leftmost
      return rank != other.rank ? rank > other.rank : place > other.place;
    }
  };
  std::vector<Candidate> candidates;
  for (std::size_t i = 0; i + 1 < symbols.size(); ++i) {
    if (const Merge* merge = find_merge(symbols[i].token, symbols[i + 1].token))
      candidates.push_back({merge->rank, static_cast<std::int32_t>(i), merge->merged});
  }
  std::priority_queue<Candidate> queue(std::less<Candidate>(), std::move(candidates));
  const auto propose = [&](std::int32_t left, std::int32_t right) {
    if (left == no_neighbour || right == no_neighbour) return;
    if (const Merge* merge = find_merge(symbols[left].token, symbols[right].token))
      queue.push({merge->rank, left, merge->merged});
  };
  while (!queue.empty()) {
    const Candidate best = queue.top();
    queue.pop();
    Symbol& left = symbols[best.place];
    if (left.gone || left.next == no_neighbour) continue;
    Symbol& right = symbols[left.next];
    // Either may have been merged since: then the pair, if there is one, is another.
    const Merge* merge = find_merge(left.token, right.token);
    if (merge == nullptr || merge->merged != best.merged) continue;
    left.token = best.merged;
    left.next = right.next;
    right.gone = true;
    if (left.next != no_neighbour) symbols[left.next].previous = best.place;
    propose(left.previous, best.place);
    propose(best.place, left.next);
  }
}

/// Where the word that begins at `begin` ends. No merge reaches from one word into the next, so each can be
/// merged alone and remembered: SentencePiece's models give a whole document as one piece, and this makes it
/// ten times faster.
std::size_t Bpe::end_of_word(std::string_view piece, std::size_t begin) const {
  for (std::size_t at = begin; has_words_;) {
    at = piece.find(visible_space, at + 1);
    if (at == std::string_view::npos) break;
    std::size_t last = last_character(piece.substr(0, at));
    if (!before_words_.contains(next_code_point(piece, last))) return at;
  }
  return piece.size();
}

void Bpe::encode(std::string_view piece, std::vector<Token>& out, Cache& cache) const {
  if (const auto whole = options_.ignore_merges ? vocabulary_.find(piece) : std::nullopt) {
    out.push_back(*whole);
    return;
  }
  for (std::size_t begin = 0; begin < piece.size();) {
    const std::size_t end = end_of_word(piece, begin);
    encode_word(piece.substr(begin, end - begin), out, cache);
    begin = end;
  }
}

void Bpe::encode_word(std::string_view word, std::vector<Token>& out, Cache& cache) const {
  if (const auto known = cache.find(word)) {
    out.insert(out.end(), known->begin(), known->end());
    return;
  }
  const std::size_t begin = out.size();
  std::vector<Symbol> symbols = characters(word);
  merge_all(symbols);
  for (const Symbol& symbol : symbols)
    if (!symbol.gone) out.push_back(symbol.token);
  cache.insert(word, std::span(out).subspan(begin));
}

}  // namespace fathom
