#include "eval/choices.h"

#include <algorithm>

#include "base/error.h"
#include "base/interrupt.h"
#include "runtime/likelihood.h"

namespace fathom {
namespace {

constexpr std::size_t batch_queries = 64;
/// Of the contexts together. Enough that reading the weights is small beside the arithmetic.
constexpr std::size_t batch_tokens = 2048;

/// A sequence of the engine and the tokens it holds.
class Slot {
 public:
  explicit Slot(Engine& engine) : engine_(&engine), sequence_(engine.open()) {}

  /// Makes the slot hold the beginning that it shares with `context`, at most all but the last token, and
  /// returns what is still to be fed: the last token's hidden state is always wanted.
  Feed enter(std::span<const Token> context) {
    const auto [mine, other] = std::ranges::mismatch(tokens_, context.first(context.size() - 1));
    const auto shared = static_cast<std::size_t>(mine - tokens_.begin());
    engine_->truncate(sequence_, static_cast<std::int64_t>(shared));
    tokens_.assign(context.begin(), context.end());
    return {sequence_, context.subspan(shared), 1};
  }

  /// Forgets the continuation that was fed after the context.
  void leave_continuation() { engine_->truncate(sequence_, static_cast<std::int64_t>(tokens_.size())); }

  int sequence() const { return sequence_; }

 private:
  Engine* engine_;
  int sequence_;
  std::vector<Token> tokens_;
};

class BatchScorer {
 public:
  explicit BatchScorer(Engine& engine) : engine_(&engine) {}
  BatchScorer(const BatchScorer&) = delete;
  BatchScorer& operator=(const BatchScorer&) = delete;
  ~BatchScorer() {
    for (const Slot& slot : slots_) engine_->close(slot.sequence());
  }

  /// Fills results[i][c] for query i of the batch.
  void score(std::span<const EncodedQuery> batch, std::span<std::vector<Likelihood>> results) {
    while (slots_.size() < batch.size()) slots_.emplace_back(*engine_);
    score_first_tokens(batch, results);
    std::size_t most = 0;
    for (const auto& query : batch) most = std::max(most, query.continuations.size());
    for (std::size_t choice = 0; choice < most; ++choice) score_rest(batch, choice, results);
  }

 private:
  /// The contexts, and from their last hidden states the first token of every continuation.
  void score_first_tokens(std::span<const EncodedQuery> batch, std::span<std::vector<Likelihood>> results) {
    std::vector<Feed> feeds;
    std::vector<Target> targets;
    for (std::size_t i = 0; i < batch.size(); ++i) {
      feeds.push_back(slots_[i].enter(batch[i].context));
      for (const auto& continuation : batch[i].continuations)
        targets.push_back({static_cast<std::int64_t>(i), continuation.front()});
    }
    const auto scores = score_targets(*engine_, engine_->forward(feeds), targets);
    auto score = scores.begin();
    for (std::size_t i = 0; i < batch.size(); ++i) {
      results[i].clear();
      for (std::size_t c = 0; c < batch[i].continuations.size(); ++c, ++score)
        results[i].push_back({score->log_probability, score->greedy});
    }
  }

  /// The other tokens of continuation `choice` of every query that has one.
  void score_rest(std::span<const EncodedQuery> batch, std::size_t choice,
                  std::span<std::vector<Likelihood>> results) {
    std::vector<Feed> feeds;
    std::vector<Target> targets;
    std::vector<Likelihood*> owners;
    for (std::size_t i = 0; i < batch.size(); ++i) {
      if (choice >= batch[i].continuations.size()) continue;
      const std::span<const Token> tokens = batch[i].continuations[choice];
      if (tokens.size() < 2) continue;
      feeds.push_back({slots_[i].sequence(), tokens.first(tokens.size() - 1),
                       static_cast<std::int64_t>(tokens.size()) - 1});
      for (const Token token : tokens.subspan(1)) {
        targets.push_back({static_cast<std::int64_t>(targets.size()), token});
        owners.push_back(&results[i][choice]);
      }
    }
    if (feeds.empty()) return;
    const auto scores = score_targets(*engine_, engine_->forward(feeds), targets);
    for (std::size_t t = 0; t < scores.size(); ++t) {
      owners[t]->log_likelihood += scores[t].log_probability;
      owners[t]->greedy = owners[t]->greedy && scores[t].greedy;
    }
    for (std::size_t i = 0; i < batch.size(); ++i) slots_[i].leave_continuation();
  }

  Engine* engine_;
  std::vector<Slot> slots_;
};

}  // namespace

EncodedQuery encode_query(const Tokenizer& tokenizer, const Query& query, std::int64_t max_context) {
  const std::size_t end = query.context.find_last_not_of(" \t\n\v\f\r") + 1;  // npos + 1 is 0
  const std::string context = query.context.substr(0, end), space = query.context.substr(end);
  EncodedQuery encoded;
  encoded.context = tokenizer.encode(context);
  const std::size_t before = encoded.context.size();
  std::size_t longest = 0;
  for (const std::string& continuation : query.continuations) {
    const auto whole = tokenizer.encode(fmt::format("{}{}{}", context, space, continuation));
    if (whole.size() <= before) fail("\"{}\" has no tokens of its own after \"{}\"", continuation, context);
    encoded.continuations.emplace_back(whole.begin() + static_cast<std::ptrdiff_t>(before), whole.end());
    longest = std::max(longest, whole.size() - before);
  }
  if (encoded.context.empty()) {
    const auto bos = tokenizer.id(tokenizer.special_text("bos_token"));
    const auto start = bos ? bos : tokenizer.eos();
    if (!start) fail("an empty context needs a tokenizer with a BOS or end-of-text token");
    encoded.context.push_back(*start);
  }
  // The last token of a continuation is only predicted, and one token of context must stay.
  const auto limit = static_cast<std::size_t>(max_context);
  if (longest > limit)
    fail("a continuation of {} tokens does not fit the model's context of {}", longest, max_context);
  const std::size_t room = limit + 1 - longest;
  if (encoded.context.size() > room)
    encoded.context.erase(encoded.context.begin(), encoded.context.end() - static_cast<std::ptrdiff_t>(room));
  return encoded;
}

std::vector<std::vector<Likelihood>> score_queries(Engine& engine, const Tokenizer& tokenizer,
                                                   std::span<const Query> queries,
                                                   const std::function<void(std::int64_t)>& done) {
  std::vector<std::vector<Likelihood>> results(queries.size());
  BatchScorer scorer(engine);
  for (std::size_t first = 0; first < queries.size();) {
    check_interrupt();
    std::vector<EncodedQuery> batch;
    std::size_t tokens = 0;
    while (first + batch.size() < queries.size() && batch.size() < batch_queries && tokens < batch_tokens) {
      batch.push_back(encode_query(tokenizer, queries[first + batch.size()], engine.max_context()));
      tokens += batch.back().context.size();
    }
    scorer.score(batch, std::span(results).subspan(first, batch.size()));
    first += batch.size();
    done(static_cast<std::int64_t>(batch.size()));
  }
  return results;
}

}  // namespace fathom
