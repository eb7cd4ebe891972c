// The teacher of a distillation: the runtime's forward pass, and its logits a chunk of rows at a time.
#pragma once

#include <map>
#include <span>
#include <vector>

#include "corpus/packing.h"
#include "runtime/engine.h"

namespace fathom {

class Teacher {
 public:
  Teacher(const Checkpoint& checkpoint, std::int64_t context, bool bf16);

  /// Runs the model over the sequences' inputs, each from one of its starts to the next by itself; what
  /// logits() and stream() speak of from here on.
  void read(const std::vector<Sequence>& sequences, const std::vector<std::int64_t>& visits = {});
  /// logits[rows, vocab] of rows [first, first + rows) of those that are learned, of the sequences laid end
  /// to end.
  void logits(std::int64_t first, std::int64_t rows, float* logits) const;

  /// The residual stream [rows, hidden] after `visit`, one of those read, of the rows that are learned.
  std::span<const float> stream(std::int64_t visit) const { return streams_.at(visit); }

  std::int64_t weight_bytes() const { return engine_.weight_bytes(); }

 private:
  Engine engine_;
  std::vector<float> hidden_;  ///< of the rows that are learned, as are the streams
  std::map<std::int64_t, std::vector<float>> streams_;
};

}  // namespace fathom
