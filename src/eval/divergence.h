// How far one model's predictions are from another's: Kullback-Leibler divergence over a text.
#pragma once

#include <cstdint>
#include <span>

#include "base/json.h"
#include "runtime/engine.h"

namespace fathom {

struct MeasuredDivergence {
  double kl = 0;            ///< mean of KL(reference || model) over predictions, in nats a token
  double same_top = 0;      ///< share of predictions in which the most probable token is the same
  std::int64_t tokens = 0;  ///< predictions
};

/// Compares the next-token distributions of a model with those of a reference that has the same vocabulary,
/// such as the same model in a type of more bits. Both see the same windows of a text (measure/windows.h says
/// what the arguments mean and which errors there are); llama.cpp's `llama-perplexity --kl-divergence` gives
/// the same two figures. Shows a progress bar.
MeasuredDivergence divergence(Engine& engine, Engine& reference, std::span<const Token> ids,
                              std::int64_t context, Token bos, std::int64_t max_windows = 0);

/// {"kl", "same_top", "tokens"}
Json to_json(const MeasuredDivergence& result);

}  // namespace fathom
