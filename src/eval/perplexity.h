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

/// Perplexity over windows of the text (eval/windows.h says what the arguments mean and which errors there
/// are). Shows a progress bar.
Perplexity perplexity(Engine& engine, std::span<const Token> ids, std::int64_t context, Token bos,
                      std::int64_t max_windows = 0);

}  // namespace fathom
