// Perplexity of a text.
#pragma once

#include <cstdint>
#include <functional>
#include <span>

#include "base/json.h"
#include "measure/windows.h"
#include "runtime/engine.h"

namespace fathom {

struct Perplexity {
  double nll = 0;           ///< mean negative log-likelihood of a scored token, in nats
  double error = 0;         ///< of `nll`: the standard error of a mean of windows; 0 of a single one
  std::int64_t tokens = 0;  ///< scored
  double perplexity() const;
  double perplexity_error() const { return perplexity() * error; }  ///< to first order, as llama.cpp's
  double seconds = 0;
};

/// From the mean losses of windows of which each scores as many tokens. Throws Error when they are no finite
/// numbers: the model is broken.
Perplexity perplexity_of(std::span<const double> window_losses, std::int64_t tokens_per_window);

/// Perplexity over windows of the text, one batch after another: `seen` is called behind each with the tokens
/// that it scored and the perplexity so far.
Perplexity perplexity(Engine& engine, const TextWindows& windows,
                      const std::function<void(std::int64_t tokens, double perplexity)>& seen = {});

/// The same over windows of the text (measure/windows.h says what the arguments mean and which errors there
/// are). Shows a progress bar.
Perplexity perplexity(Engine& engine, std::span<const Token> ids, std::int64_t context, Token bos,
                      std::int64_t max_windows = 0);

}  // namespace fathom
