#include "runtime/likelihood.h"

#include <algorithm>
#include <cmath>

#include "base/error.h"
#include "base/threads.h"

namespace fathom {
namespace {

/// 64 MB of float32. A chunk reads the whole head once, so it should not be small either: 341 rows for
/// SmolLM's 49,152 tokens, 64 for Gemma 3's 262,144.
constexpr std::int64_t chunk_logits = std::int64_t{16} << 20;

/// log(sum(exp(logits))); the sum in double, because float loses a digit over 10^5 terms.
double log_sum_exp(std::span<const float> logits) {
  const float largest = *std::max_element(logits.begin(), logits.end());
  double sum = 0;
  for (const float logit : logits) sum += std::exp(logit - largest);
  return largest + std::log(sum);
}

}  // namespace

std::vector<TokenScore> score_targets(const Engine& engine, std::span<const float> hidden,
                                      std::span<const Target> targets) {
  const std::int64_t width = engine.config().hidden_size, vocab = engine.config().vocab_size;
  const std::int64_t rows = static_cast<std::int64_t>(hidden.size()) / width;
  for (const Target& target : targets) {
    if (target.token < 0 || target.token >= vocab)
      fail("token {} is outside the model's vocabulary of {}: the tokenizer does not belong to this model",
           target.token, vocab);
  }
  std::vector<TokenScore> scores(targets.size());
  const std::int64_t chunk =
      std::clamp<std::int64_t>(chunk_logits / vocab, 1, std::max<std::int64_t>(rows, 1));
  std::vector<float> logits(static_cast<std::size_t>(chunk * vocab));
  for (std::int64_t first = 0; first < rows; first += chunk) {
    const std::int64_t count = std::min(chunk, rows - first);
    engine.head(count, hidden.data() + first * width, logits.data());
    parallel_for(count, [&](std::int64_t i) {
      auto target = std::ranges::lower_bound(targets, first + i, {}, &Target::row);
      if (target == targets.end() || target->row != first + i) return;
      const std::span<const float> row(logits.data() + i * vocab, static_cast<std::size_t>(vocab));
      const double normaliser = log_sum_exp(row);
      const float largest = *std::max_element(row.begin(), row.end());
      for (; target != targets.end() && target->row == first + i; ++target) {
        const float logit = row[static_cast<std::size_t>(target->token)];
        scores[static_cast<std::size_t>(target - targets.begin())] = {logit - normaliser, logit == largest};
      }
    });
  }
  return scores;
}

}  // namespace fathom
