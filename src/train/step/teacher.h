// The teacher of a distillation: its logits a chunk of rows at a time, and its hidden states.
#pragma once

#include <ATen/ATen.h>

#include <cstdint>
#include <memory>
#include <vector>

#include "corpus/packing.h"
#include "model/checkpoint.h"
#include "train/train.h"

namespace fathom {

class Teacher {
 public:
  Teacher() = default;
  virtual ~Teacher() = default;
  Teacher(const Teacher&) = delete;
  Teacher& operator=(const Teacher&) = delete;

  /// Runs the model over the sequences' inputs, each from one of its starts to the next by itself; what
  /// logits() and stream() speak of from here on.
  virtual void read(const std::vector<Sequence>& sequences, const std::vector<std::int64_t>& visits = {}) = 0;
  /// [rows, vocab] of rows [first, first + rows) of those that are learned, of the sequences laid end to end;
  /// they stay until the next call. Float32, or what `rounded` allows: bfloat16, half as much to move.
  virtual at::Tensor logits(std::int64_t first, std::int64_t rows, bool rounded) = 0;

  /// The residual stream [rows, hidden] after `visit`, one of those read, of the rows that are learned.
  virtual at::Tensor stream(std::int64_t visit) const = 0;

  virtual std::int64_t weight_bytes() const = 0;
};

/// For Device::cpu the runtime's forward pass, which keeps weights packed once; for the others the trainer's,
/// with weights, logits and hidden states on the student's device.
std::unique_ptr<Teacher> make_teacher(const Checkpoint& checkpoint, std::int64_t context, bool bf16,
                                      Device device);

}  // namespace fathom
