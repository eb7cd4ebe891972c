#include "measure/perplexity.h"

#include <cmath>
#include <vector>

#include "base/error.h"
#include "base/interrupt.h"
#include "base/progress.h"
#include "measure/windows.h"

namespace fathom {

double Perplexity::perplexity() const { return std::exp(nll); }

Perplexity perplexity_of(std::span<const double> window_losses, std::int64_t tokens_per_window) {
  const auto count = static_cast<double>(window_losses.size());
  Perplexity result{.tokens = std::ssize(window_losses) * tokens_per_window};
  for (const double loss : window_losses) result.nll += loss / count;
  if (!std::isfinite(result.nll))
    fail("the text's log-probability is not a number: a weight of the model is damaged or out of range");
  double squares = 0;
  for (const double loss : window_losses) squares += (loss - result.nll) * (loss - result.nll);
  if (count > 1) result.error = std::sqrt(squares / (count - 1) / count);
  return result;
}

Perplexity perplexity(Engine& engine, const TextWindows& windows,
                      const std::function<void(std::int64_t tokens, double perplexity)>& seen) {
  std::vector<double> losses;
  double sum = 0;
  for (std::int64_t i = 0; i < windows.batches(); ++i) {
    check_interrupt();
    const WindowBatch batch = windows.batch(i);
    const auto scores = score_targets(engine, forward(engine, batch), batch.targets);
    const std::size_t scored = scores.size() / batch.inputs.size();  // of a window
    for (std::size_t first = 0; first < scores.size(); first += scored) {
      double loss = 0;
      for (const TokenScore& score : std::span(scores).subspan(first, scored)) loss -= score.log_probability;
      losses.push_back(loss / static_cast<double>(scored));
      sum += losses.back();
    }
    if (seen) seen(std::ssize(scores), std::exp(sum / static_cast<double>(losses.size())));
  }
  return perplexity_of(losses, windows.predictions() / std::ssize(losses));
}

Perplexity perplexity(Engine& engine, std::span<const Token> ids, std::int64_t context, Token bos,
                      std::int64_t max_windows) {
  const TextWindows windows(ids, context, bos, max_windows, engine.max_context());
  Progress progress("perplexity", windows.predictions(), "tok");
  Perplexity result = perplexity(engine, windows, [&](std::int64_t tokens, double so_far) {
    progress.advance(tokens, fmt::format("perplexity {:.2f}", so_far));
  });
  progress.finish();
  result.seconds = progress.seconds();
  return result;
}

}  // namespace fathom
