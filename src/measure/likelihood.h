// Log-probabilities of tokens from hidden states.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "runtime/engine.h"

namespace fathom {

/// A token whose probability is asked for, and the hidden state that predicts it.
struct Target {
  std::int64_t row = 0;
  Token token = 0;
};

struct TokenScore {
  double log_probability = 0;  ///< natural logarithm
  bool greedy = false;         ///< no other token is more probable
};

/// Scores `targets` (ordered by row) with hidden states [rows, hidden] as Engine::forward returns them.
/// Throws Error when a token is outside the vocabulary, or logits are not finite.
std::vector<TokenScore> score_targets(Engine& engine, std::span<const float> hidden,
                                      std::span<const Target> targets);

}  // namespace fathom
