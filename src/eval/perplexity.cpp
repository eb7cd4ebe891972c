#include "eval/perplexity.h"

#include <cmath>

#include "base/error.h"
#include "base/interrupt.h"
#include "base/progress.h"
#include "eval/windows.h"

namespace fathom {

double Perplexity::perplexity() const { return std::exp(nll); }

Perplexity perplexity(Engine& engine, std::span<const Token> ids, std::int64_t context, Token bos,
                      std::int64_t max_windows) {
  const TextWindows windows(ids, context, bos, max_windows, engine.max_context());
  Perplexity result;
  Progress progress("perplexity", windows.predictions(), "tok");
  double log_probability = 0;
  for (std::int64_t i = 0; i < windows.batches(); ++i) {
    check_interrupt();
    const WindowBatch batch = windows.batch(i);
    for (const TokenScore& score : score_targets(engine, forward(engine, batch), batch.targets))
      log_probability += score.log_probability;
    const auto count = static_cast<std::int64_t>(batch.targets.size());
    result.tokens += count;
    result.nll = -log_probability / static_cast<double>(result.tokens);
    progress.advance(count, fmt::format("perplexity {:.2f}", result.perplexity()));
  }
  progress.finish();
  if (!std::isfinite(result.nll))
    fail("the text's log-probability is not a number: a weight of the model is damaged or out of range");
  result.seconds = progress.seconds();
  return result;
}

}  // namespace fathom
