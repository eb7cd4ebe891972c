#include "eval/perplexity.h"

#include <algorithm>
#include <cmath>
#include <vector>

#include "base/error.h"
#include "base/interrupt.h"
#include "base/progress.h"
#include "runtime/likelihood.h"

namespace fathom {
namespace {

/// Rows of one forward pass. From some 1,000 rows on, reading the weights is small beside the arithmetic.
constexpr std::int64_t batch_rows = 2048;

/// Sum of the log-probabilities of windows [first, first + count), run side by side. The last token of a
/// window is only predicted, so it is not fed.
double batch_log_probability(Engine& engine, std::span<const Token> ids, std::int64_t context, Token bos,
                             std::int64_t first, std::int64_t count) {
  const std::int64_t scored = bos >= 0 ? context : context - 1;
  std::vector<std::vector<Token>> inputs;
  std::vector<Feed> feeds;
  std::vector<Target> targets;
  for (std::int64_t w = first; w < first + count; ++w) {
    const auto window = ids.subspan(static_cast<std::size_t>(w * context), static_cast<std::size_t>(context));
    auto& input = inputs.emplace_back();
    if (bos >= 0) input.push_back(bos);
    input.insert(input.end(), window.begin(), window.end() - 1);
    for (const Token token : window.last(static_cast<std::size_t>(scored)))
      targets.push_back({static_cast<std::int64_t>(targets.size()), token});
  }
  for (const auto& input : inputs) feeds.push_back({engine.open(), input, scored});
  const auto hidden = engine.forward(feeds);
  for (const Feed& feed : feeds) engine.close(feed.sequence);
  double sum = 0;
  for (const TokenScore& score : score_targets(engine, hidden, targets)) sum += score.log_probability;
  return sum;
}

}  // namespace

double Perplexity::perplexity() const { return std::exp(nll); }

Perplexity perplexity(Engine& engine, std::span<const Token> ids, std::int64_t context, Token bos,
                      std::int64_t max_windows) {
  if (context < 2 || context > engine.max_context())
    fail_usage("--context is {}, expected 2 to {}, the model's own limit", context, engine.max_context());
  std::int64_t windows = static_cast<std::int64_t>(ids.size()) / context;
  if (windows == 0)
    fail("the text has {} tokens, fewer than one window of {}: bring more text or a smaller --context",
         ids.size(), context);
  if (max_windows > 0) windows = std::min(windows, max_windows);

  Perplexity result;
  Progress progress("perplexity", windows * context, "tok");
  const std::int64_t batch = std::max<std::int64_t>(1, batch_rows / context);
  double log_probability = 0;
  for (std::int64_t first = 0; first < windows; first += batch) {
    check_interrupt();
    const std::int64_t count = std::min(batch, windows - first);
    log_probability += batch_log_probability(engine, ids, context, bos, first, count);
    result.tokens += count * (bos >= 0 ? context : context - 1);
    result.nll = -log_probability / static_cast<double>(result.tokens);
    progress.advance(count * context, fmt::format("perplexity {:.2f}", result.perplexity()));
  }
  progress.finish();
  if (!std::isfinite(result.nll))
    fail("the text's log-probability is not a number: a weight of the model is damaged or out of range");
  result.seconds = progress.seconds();
  return result;
}

}  // namespace fathom
