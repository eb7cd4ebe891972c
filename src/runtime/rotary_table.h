// Cosines and sines of a rotary embedding, by position.
#pragma once

#include <cstdint>
#include <vector>

#include "model/config.h"

namespace fathom {

/// Row p: the head_dim/2 cosines of position p, then its sines. Grows with the positions that occur, so that
/// a layer costs no trigonometry.
class RotaryTable {
 public:
  explicit RotaryTable(Rope rope) : rope_(std::move(rope)) {}
  /// The table, with rows for positions [0, count) at least.
  const float* rows(std::int64_t count);

 private:
  Rope rope_;
  std::vector<float> values_;
};

}  // namespace fathom
