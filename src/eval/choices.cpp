#include "eval/choices.h"

#include <algorithm>
#include <deque>
#include <optional>

#include "base/error.h"
#include "base/interrupt.h"
#include "measure/likelihood.h"
#include "text/jinja/text.h"

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

/// Texts to tokens, as lm-eval's HFLM does it.
class Encoder {
 public:
  explicit Encoder(const Tokenizer& tokenizer) : tokenizer_(tokenizer) {
    prefix_ = tokenizer.id(tokenizer.special_text("bos_token"));
    if (!prefix_) prefix_ = tokenizer.eos();
    if (prefix_) prefix_text_ = tokenizer.piece(*prefix_);
  }

  EncodedQuery operator()(const Query& query) const {
    if (query.context.empty()) return without_context(query.continuations);
    const std::string_view context = jinja::strip(query.context, jinja::Side::right);
    EncodedQuery encoded{encode(context), {}};
    for (const std::string& continuation : query.continuations)
      encoded.continuations.push_back(
          tokens_after(encode(query.context + continuation), encoded.context.size(), query, continuation));
    if (encoded.context.empty()) encoded.context.push_back(prefix());
    return encoded;
  }

 private:
  EncodedQuery without_context(const std::vector<std::string>& continuations) const {
    EncodedQuery encoded{{prefix()}, {}};
    for (const std::string& continuation : continuations) {
      const auto tokens = tokenizer_.encode(continuation, false);
      const bool starts = !tokens.empty() && tokens.front() == prefix();
      encoded.continuations.push_back(tokens_after(tokens, starts ? 1 : 0, {}, continuation));
    }
    return encoded;
  }

  std::vector<Token> encode(std::string_view text) const {
    const bool starts = !prefix_text_.empty() && text.starts_with(prefix_text_);
    return starts ? tokenizer_.encode(text, false) : tokenizer_.encode_prompt(text);
  }

  static std::vector<Token> tokens_after(const std::vector<Token>& tokens, std::size_t begin,
                                         const Query& query, const std::string& continuation) {
    if (tokens.size() <= begin)
      fail("\"{}\" has no tokens of its own after \"{}\"", continuation, query.context);
    return {tokens.begin() + static_cast<std::ptrdiff_t>(begin), tokens.end()};
  }

  Token prefix() const {
    if (!prefix_) fail("an empty context needs a tokenizer with a BOS or end-of-text token");
    return *prefix_;
  }

  const Tokenizer& tokenizer_;
  std::optional<Token> prefix_;
  std::string prefix_text_;
};

/// The context's end that fits into `max_context` before a continuation, whose last token is only predicted.
std::vector<Token> fitting(const std::vector<Token>& context, const std::vector<Token>& continuation,
                           std::int64_t max_context) {
  if (std::ssize(continuation) > max_context)
    fail("a continuation of {} tokens does not fit the model's context of {}", continuation.size(),
         max_context);
  const std::int64_t room = max_context + 1 - std::ssize(continuation);
  return {context.end() - std::min(room, std::ssize(context)), context.end()};
}

}  // namespace

std::vector<EncodedQuery> encode_query(const Tokenizer& tokenizer, const Query& query,
                                       std::int64_t max_context) {
  EncodedQuery whole = Encoder(tokenizer)(query);
  std::vector<EncodedQuery> each;
  bool fits = true;
  for (const auto& continuation : whole.continuations) {
    each.push_back({fitting(whole.context, continuation, max_context), {continuation}});
    fits = fits && each.back().context.size() == whole.context.size();
  }
  if (fits) return {std::move(whole)};
  return each;
}

std::vector<std::vector<Likelihood>> score_queries(Engine& engine, const Tokenizer& tokenizer,
                                                   std::span<const Query> queries,
                                                   const std::function<void(std::int64_t)>& done) {
  std::vector<std::vector<Likelihood>> results(queries.size());
  BatchScorer scorer(engine);
  std::deque<EncodedQuery> waiting;  // what is left of the query before queries[encoded]
  std::size_t encoded = 0, scored = 0;
  while (scored < queries.size()) {
    check_interrupt();
    std::vector<EncodedQuery> batch;
    std::size_t tokens = 0;
    while (batch.size() < batch_queries && tokens < batch_tokens) {
      if (waiting.empty()) {
        if (encoded == queries.size()) break;
        std::ranges::move(encode_query(tokenizer, queries[encoded++], engine.max_context()),
                          std::back_inserter(waiting));
      }
      tokens += waiting.front().context.size();
      batch.push_back(std::move(waiting.front()));
      waiting.pop_front();
    }
    std::vector<std::vector<Likelihood>> likelihoods(batch.size());
    scorer.score(batch, likelihoods);
    const std::size_t before = scored;
    for (const auto& part : likelihoods) {
      auto& result = results[scored];
      result.insert(result.end(), part.begin(), part.end());
      if (result.size() == queries[scored].continuations.size()) ++scored;
    }
    done(static_cast<std::int64_t>(scored - before));
  }
  return results;
}

}  // namespace fathom
