#include "corpus/packing.h"

#include <algorithm>
#include <bit>
#include <utility>

#include "base/error.h"
#include "base/fingerprint.h"
#include "base/random.h"

namespace fathom {

std::int64_t permuted(std::int64_t index, std::int64_t count, std::uint64_t key) {
  const int half = (std::bit_width(static_cast<std::uint64_t>(count - 1)) + 1) / 2;
  const std::uint64_t mask = (std::uint64_t{1} << half) - 1;
  auto value = static_cast<std::uint64_t>(index);
  do {  // fewer than four turns on average: the power of four is less than four times the count
    std::uint64_t left = value >> half, right = value & mask;
    for (std::uint64_t round = 0; round < 4; ++round) {
      const std::uint64_t mixed = Random(key ^ (right << 3U | round)).next();
      left = std::exchange(right, left ^ (mixed & mask));
    }
    value = left << half | right;
  } while (value >= static_cast<std::uint64_t>(count));
  return static_cast<std::int64_t>(value);
}

RowRange document_rows(const Sequence& sequence, std::size_t index) {
  const bool last = index + 1 == sequence.starts.size();
  const std::int64_t end = last ? std::ssize(sequence.inputs) : sequence.starts[index + 1];
  return {sequence.starts[index], end - sequence.starts[index]};
}

Packing::Packing(std::vector<MixedSource> sources, const PackingOptions& options)
    : sources_(std::move(sources)), options_(options), taken_(sources_.size()) {
  for (const MixedSource& source : sources_) {
    if (source.store.size() < 2) fail("the training text has no tokens: bring a text that is not empty");
    if (!(source.weight > 0)) fail("a mixing weight is {}, expected more than 0", source.weight);
    kept_.push_back(learned_sequences(source.store));
    if (!kept_.back().empty()) continue;
    fail(
        "{}: none of its {} tokens is learned, expected some: of a conversation only what the assistant says "
        "is; see with --show-mask what that is",
        source.store.files.front(), source.store.size());
  }
}

std::int64_t Packing::tokens() const {
  std::int64_t count = 0;
  for (const MixedSource& source : sources_) count += source.store.size();
  return count;
}

std::int64_t Packing::all_sequences(const TokenStore& store) const {
  return (store.size() + options_.context - 1) / options_.context;
}

/// Whether a row whose next token is number `target` of the source's stream, which goes round, learns it.
bool Packing::is_learned(const TokenStore& store, std::int64_t target) const {
  const std::int64_t end = store.size() + (options_.bos >= 0 ? 0 : 1);  // what comes later came already
  return target < end && store.tokens[static_cast<std::size_t>(target % store.size())] >= 0;
}

std::vector<std::int64_t> Packing::learned_sequences(const TokenStore& store) const {
  std::vector<std::int64_t> result;
  for (std::int64_t sequence = 0; sequence < all_sequences(store); ++sequence) {
    std::int64_t target = sequence * options_.context + (options_.bos >= 0 ? 0 : 1);
    const std::int64_t end = target + options_.context;
    while (target < end && !is_learned(store, target)) ++target;
    if (target < end) result.push_back(sequence);
  }
  return result;
}

std::int64_t Packing::sequences() const {
  std::int64_t count = 0;
  for (const auto& kept : kept_) count += std::ssize(kept);
  return count;
}

std::int64_t Packing::left_out() const {
  std::int64_t all = 0;
  for (const MixedSource& source : sources_) all += all_sequences(source.store);
  return all - sequences();
}

std::int64_t Packing::learned() const {
  std::int64_t count = 0;
  for (const MixedSource& source : sources_) {
    count += std::ranges::count_if(source.store.tokens, [](Token token) { return token >= 0; });
  }
  return count;
}

std::string Packing::digest() const {
  Fingerprint result;
  for (const MixedSource& source : sources_) {
    result.add(source.store.digest);
    if (sources_.size() > 1) result.add(fmt::format("{}", source.weight));
  }
  return result.hex();
}

Packing::Place Packing::locate(std::int64_t position) {
  if (position < position_) {
    position_ = 0;
    std::ranges::fill(taken_, 0);
  }
  double all = 0;
  for (const MixedSource& source : sources_) all += source.weight;
  // The source that is furthest behind its share comes next.
  const auto next = [&] {
    std::size_t chosen = 0;
    double most = 0;
    for (std::size_t i = 0; i < sources_.size(); ++i) {
      const double behind =
          sources_[i].weight / all * static_cast<double>(position_ + 1) - static_cast<double>(taken_[i]);
      if (i > 0 && behind <= most) continue;
      most = behind;
      chosen = i;
    }
    return chosen;
  };
  if (sources_.size() == 1) taken_[0] = position_ = position;
  while (position_ < position) {
    ++taken_[next()];
    ++position_;
  }
  const std::size_t which = next();
  const TokenStore& store = sources_[which].store;
  const std::vector<std::int64_t>& kept = kept_[which];
  const std::int64_t count = std::ssize(kept), epoch = taken_[which] / count;
  const std::uint64_t key = Random(options_.seed ^ static_cast<std::uint64_t>(epoch) << 8U ^ which).next();
  const std::int64_t chosen = kept[static_cast<std::size_t>(permuted(taken_[which] % count, count, key))];
  std::int64_t before = 0;
  for (std::size_t i = 0; i < which; ++i) before += all_sequences(sources_[i].store);
  return {&store, chosen * options_.context, before + chosen};
}

Sequence Packing::at(std::int64_t position) {
  const auto [store, first, number] = locate(position);
  const std::int64_t count = store->size();
  const auto id = [&, &tokens = store->tokens](std::int64_t i) {
    const Token token = tokens[static_cast<std::size_t>(i % count)];
    return token < 0 ? ~token : token;
  };
  const bool has_bos = options_.bos >= 0;
  auto document = store->documents.begin() + store->document_of(first);
  Sequence result{.inputs = {}, .labels = {}, .place = number, .starts = {0}};
  for (std::int64_t row = 0; row < options_.context; ++row) {
    const std::int64_t target = first + row + (has_bos ? 0 : 1);  // the token that this row predicts
    while (document != store->documents.end() && document->token < target) ++document;
    const bool begins = target == count || (document != store->documents.end() && document->token == target);
    const bool opens = options_.within_documents && begins && row > 0;
    if (opens) result.starts.push_back(row);
    result.inputs.push_back(has_bos && (row == 0 || opens) ? options_.bos : id(target - 1));
    result.labels.push_back(is_learned(*store, target) ? id(target) : -1);
    if (std::max(result.inputs.back(), result.labels.back()) >= options_.vocab) {
      fail("{}: has token {}, outside of the vocabulary of {}: was it tokenised for another model?",
           store->describe(store->document_of(target % count)),
           std::max(result.inputs.back(), result.labels.back()), options_.vocab);
    }
  }
  return result;
}

std::string Packing::describe(std::int64_t position) {
  const auto [store, token, number] = locate(position);
  const std::int64_t last = std::min(token + options_.context, store->size() - 1);
  const std::string from = store->describe(store->document_of(token));
  const std::string to = store->describe(store->document_of(last));
  return from == to ? from : from + " to " + to;
}

}  // namespace fathom
