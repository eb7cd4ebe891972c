// Perplexity of a text.
#pragma once

#include <cstdint>
#include <span>

#include "base/json.h"
#include "runtime/engine.h"

namespace fathom {

struct Perplexity {
  double nll = 0;           ///< mean negative log-likelihood of a scored token, in nats
  std::int64_t tokens = 0;  ///< scored
  double perplexity() const;
  double seconds = 0;
};

/// Non-overlapping windows of `context` tokens; a last short one is left out. With `bos` (>= 0) each window
/// is preceded by it and its first token is scored too; otherwise a window's first token is not.
/// `max_windows` 0: all. Shows a progress bar. Throws Error when the text is shorter than one window.
Perplexity perplexity(Engine& engine, std::span<const Token> ids, std::int64_t context, Token bos,
                      std::int64_t max_windows = 0);

}  // namespace fathom
