// Windows of a text, side by side: what a model's predictions are measured on.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "measure/likelihood.h"
#include "runtime/engine.h"

namespace fathom {

/// Some windows that run together.
struct WindowBatch {
  std::vector<std::vector<Token>> inputs;  ///< what each is fed
  std::vector<Target> targets;  ///< the tokens that are predicted, of all windows; each has its own row
};

/// Hidden states [targets, hidden] of a batch's predictions, as Engine::forward returns them.
std::vector<float> forward(Engine& engine, const WindowBatch& batch);

/// How a text is cut: non-overlapping windows of `context` tokens; a last short one is left out. With `bos`
/// (>= 0) each window is preceded by it and its first token is predicted too; otherwise a window's first
/// token is not. Does not own the tokens.
class TextWindows {
 public:
  /// The first `max_windows` windows, 0: all. Throws Error when the text is shorter than one window,
  /// UsageError when `context` is not from 2 to `max_context`.
  TextWindows(std::span<const Token> ids, std::int64_t context, Token bos, std::int64_t max_windows,
              std::int64_t max_context);

  /// Tokens that are predicted, of all windows.
  std::int64_t predictions() const { return windows_ * predictions_; }
  std::int64_t batches() const;
  WindowBatch batch(std::int64_t index) const;

 private:
  std::span<const Token> ids_;
  std::int64_t context_, windows_, predictions_;  // the last: of one window
  Token bos_;
};

}  // namespace fathom
