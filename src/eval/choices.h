// Log-likelihoods of continuations of a context, as EleutherAI's lm-evaluation-harness asks a causal model
// for them.
#pragma once

#include <cstdint>
#include <functional>
#include <span>
#include <string>
#include <vector>

#include "runtime/engine.h"
#include "text/tokenizer.h"

namespace fathom {

/// A context and the texts that may follow it, each with its leading space.
struct Query {
  std::string context;
  std::vector<std::string> continuations;
};

struct Likelihood {
  double log_likelihood = 0;  ///< sum over the continuation's tokens, in nats
  bool greedy = false;        ///< greedy decoding would have written it
};

/// A context in tokens, and continuations that follow it.
struct EncodedQuery {
  std::vector<Token> context;
  std::vector<std::vector<Token>> continuations;
};

/// lm-eval's way: the context's trailing white space moves to the continuation; a continuation's tokens are
/// those of context + continuation after as many as the context alone has. What the tokenizer puts before a
/// text stands before the context, unless that begins with the BOS token's text already; what it puts behind
/// a text (an end token) is left out, since neither the context nor the continuation ends the text. An empty
/// context is the BOS or else the end-of-text token. A context loses as much of its beginning as does not
/// fit into `max_context` with a continuation. So there is one element, with all continuations, or, if some
/// do not fit behind the whole context, one for each continuation. Throws Error when a continuation has no
/// tokens or does not fit by itself.
std::vector<EncodedQuery> encode_query(const Tokenizer& tokenizer, const Query& query,
                                       std::int64_t max_context);

/// Scores all queries; one list of likelihoods for each. A context is computed once for all its
/// continuations, and what it has in common with the one before it in its slot (few-shot examples) is not
/// computed again. Queries run side by side. `done` is called after each batch with the number of queries
/// that it completed.
std::vector<std::vector<Likelihood>> score_queries(Engine& engine, const Tokenizer& tokenizer,
                                                   std::span<const Query> queries,
                                                   const std::function<void(std::int64_t)>& done);

}  // namespace fathom
