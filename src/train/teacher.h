// The teacher of a distillation: the runtime's forward pass, and its logits a chunk of rows at a time.
#pragma once

#include <memory>
#include <vector>

#include "runtime/engine.h"
#include "train/packing.h"

namespace fathom {

class Teacher {
 public:
  Teacher(const Checkpoint& checkpoint, std::int64_t context, bool bf16);

  /// Runs the model over the sequences' inputs; what logits() speaks of from here on.
  void read(const std::vector<Sequence>& sequences);
  /// logits[rows, vocab] of rows [first, first + rows) of the sequences laid end to end.
  void logits(std::int64_t first, std::int64_t rows, float* logits) const;

 private:
  Engine engine_;
  std::vector<float> hidden_;
};

}  // namespace fathom
