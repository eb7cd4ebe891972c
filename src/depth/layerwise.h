// A text's hidden states, taken through a model one visit after the other.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "model/checkpoint.h"
#include "runtime/engine.h"
#include "text/tokenizer.h"

namespace fathom {

/// Whole windows of a text (a last short one is left out), each a sequence of its own. One layer's weights
/// are packed at a time, and a layer may be changed before the states go through it: what is fitted to a
/// model's inner states works its way through the model once, whatever its depth. Takes 4 bytes a token and
/// hidden dimension (150 MB for 64k tokens of SmolLM2).
class LayerwiseStates {
 public:
  /// As they are before the first visit: `context` tokens a window, after `bos` if that is not negative.
  /// Throws Error when the text is shorter than one window.
  LayerwiseStates(const Checkpoint& checkpoint, std::span<const Token> ids, std::int64_t context, Token bos);

  std::int64_t rows() const { return std::ssize(values_) / width_; }
  std::int64_t width() const { return width_; }
  std::int64_t window_rows() const { return window_rows_; }  ///< rows of one sequence: they follow each other
  std::span<const float> values() const { return values_; }  ///< [rows, width]

  /// What they are after a visit of the checkpoint's plan. An observer sees some whole windows at a time, in
  /// order, as those of visit 0.
  std::vector<float> after(const Checkpoint& checkpoint, std::int64_t visit,
                           Observer* observer = nullptr) const;
  /// Moves them there.
  void go_through(const Checkpoint& checkpoint, std::int64_t visit) { values_ = after(checkpoint, visit); }

 private:
  std::int64_t width_, window_rows_;
  std::vector<float> values_;
};

}  // namespace fathom
