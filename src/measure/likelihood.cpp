#include "measure/likelihood.h"

#include "base/error.h"
#include "runtime/lm_head.h"

namespace fathom {

std::vector<TokenScore> score_targets(Engine& engine, std::span<const float> hidden,
                                      std::span<const Target> targets) {
  const std::int64_t width = engine.config().hidden_size, vocab = engine.config().vocab_size;
  const std::int64_t rows = static_cast<std::int64_t>(hidden.size()) / width;
  std::vector<Pick> picks;
  for (const Target& target : targets) {
    if (target.token < 0 || target.token >= vocab)
      fail("token {} is outside the model's vocabulary of {}: the tokenizer does not belong to this model",
           target.token, vocab);
    picks.push_back({target.row, target.token});
  }
  std::vector<float> logits;
  const std::vector<RowSummary> summaries = engine.head().summarise(rows, hidden.data(), picks, logits);
  std::vector<TokenScore> scores;
  for (std::size_t i = 0; i < targets.size(); ++i) {
    const RowSummary& row = summaries[static_cast<std::size_t>(targets[i].row)];
    scores.push_back({logits[i] - row.log_sum_exp, logits[i] == row.largest});
  }
  return scores;
}

}  // namespace fathom
