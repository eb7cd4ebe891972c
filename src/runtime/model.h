// A checkpoint's weights as the kernels read them: packed once, for engines of any plan over its layers.
#pragma once

#include <memory>
#include <string>

#include "kernels/backend.h"
#include "model/checkpoint.h"
#include "runtime/packed_cache.h"
#include "runtime/weights.h"

namespace fathom {

/// Does not change, so that engines on several threads share it: those of a choice's candidates, of several
/// plans of one model.
struct Model {
  /// Packs, or finds in the cache; the checkpoint's tensors are not needed afterwards.
  explicit Model(const Checkpoint& checkpoint, Compute type = Compute::f32, const PackedCache& cache = {},
                 bool traced = false);

  /// For an engine of its own: a line about each operation on standard error where it is traced.
  std::unique_ptr<Backend> make_backend() const;

  ModelConfig config;
  std::string source;  ///< the checkpoint, for messages
  Compute compute;
  bool trace;
  Weights weights;
};

/// bf16 where the weights have no more bits than that and the machine multiplies bf16 faster; float32
/// otherwise: for measuring and changing a model in depth, where what activations lose in 8 bits would stand
/// in the way.
Compute float_compute(const Checkpoint& checkpoint);

/// For running a model as it is: native for a quantised file, float_compute for others.
Compute own_compute(const Checkpoint& checkpoint);

}  // namespace fathom
