#include "eval/divergence.h"

#include <algorithm>
#include <cassert>
#include <cmath>
#include <vector>

#include "base/error.h"
#include "base/interrupt.h"
#include "base/progress.h"
#include "base/threads.h"
#include "measure/windows.h"
#include "runtime/lm_head.h"

namespace fathom {
namespace {

/// 64 MB of float32 for each model. A chunk reads the whole head once, so it should not be small either: 341
/// rows for SmolLM's 49,152 tokens, 64 for Gemma 3's 262,144.
constexpr std::int64_t chunk_logits = std::int64_t{16} << 20;

/// log(sum(exp(logits))); the sum in double, because float loses a digit over 10^5 terms.
double log_sum_exp(std::span<const float> logits) {
  const float largest = *std::ranges::max_element(logits);
  double sum = 0;
  for (const float logit : logits) sum += std::exp(logit - largest);
  return largest + std::log(sum);
}

struct RowDivergence {
  double kl = 0;
  bool same_top = false;
};

/// Of one prediction: sum over tokens of p (log p - log q), where p is the reference's and q the model's.
RowDivergence diverge(std::span<const float> logits, std::span<const float> reference) {
  const double normaliser = log_sum_exp(logits), reference_normaliser = log_sum_exp(reference);
  double kl = 0;
  for (std::size_t i = 0; i < logits.size(); ++i) {
    const double log_p = reference[i] - reference_normaliser, log_q = logits[i] - normaliser;
    kl += std::exp(log_p) * (log_p - log_q);
  }
  const auto top = [](std::span<const float> row) { return std::ranges::max_element(row) - row.begin(); };
  return {kl, top(logits) == top(reference)};
}

/// Divergences of all predictions of a batch, from its hidden states in both models.
std::vector<RowDivergence> diverge(Engine& engine, std::span<const float> hidden, Engine& reference,
                                   std::span<const float> reference_hidden, std::int64_t rows) {
  const std::int64_t vocab = engine.config().vocab_size;
  const std::int64_t width = engine.config().hidden_size, reference_width = reference.config().hidden_size;
  const std::int64_t chunk = std::min(std::max<std::int64_t>(1, chunk_logits / vocab), rows);
  std::vector<float> logits(static_cast<std::size_t>(chunk * vocab)), reference_logits(logits.size());
  std::vector<RowDivergence> divergences(static_cast<std::size_t>(rows));
  for (std::int64_t first = 0; first < rows; first += chunk) {
    const std::int64_t count = std::min(chunk, rows - first);
    engine.head().logits(count, hidden.data() + first * width, logits.data());
    reference.head().logits(count, reference_hidden.data() + first * reference_width,
                            reference_logits.data());
    parallel_for(count, [&](std::int64_t i) {
      const auto row = [&](const std::vector<float>& of) {
        return std::span(of).subspan(static_cast<std::size_t>(i * vocab), static_cast<std::size_t>(vocab));
      };
      divergences[static_cast<std::size_t>(first + i)] = diverge(row(logits), row(reference_logits));
    });
  }
  return divergences;
}

}  // namespace

MeasuredDivergence divergence(Engine& engine, Engine& reference, std::span<const Token> ids,
                              std::int64_t context, Token bos, std::int64_t max_windows) {
  assert(engine.config().vocab_size == reference.config().vocab_size);
  const TextWindows windows(ids, context, bos, max_windows,
                            std::min(engine.max_context(), reference.max_context()));
  MeasuredDivergence result;
  Progress progress("divergence", windows.predictions(), "tok");
  double kl = 0, same_top = 0;
  for (std::int64_t i = 0; i < windows.batches(); ++i) {
    check_interrupt();
    const WindowBatch batch = windows.batch(i);
    const auto count = static_cast<std::int64_t>(batch.targets.size());
    for (const RowDivergence& row :
         diverge(engine, forward(engine, batch), reference, forward(reference, batch), count)) {
      kl += row.kl;
      same_top += row.same_top;
    }
    result.tokens += count;
    result.kl = kl / static_cast<double>(result.tokens);
    result.same_top = same_top / static_cast<double>(result.tokens);
    progress.advance(count, fmt::format("divergence {:.5f}", result.kl));
  }
  progress.finish();
  if (!std::isfinite(result.kl))
    fail("the divergence is not a number: a weight of the model is damaged or out of range");
  return result;
}

Json to_json(const MeasuredDivergence& result) {
  return {{"kl", result.kl}, {"same_top", result.same_top}, {"tokens", result.tokens}};
}

}  // namespace fathom
