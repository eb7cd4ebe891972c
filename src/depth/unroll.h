// A model whose visits all have layers of their own: what other programs run.
#pragma once

#include <optional>

#include "model/checkpoint.h"

namespace fathom {

/// The plain model that computes what `checkpoint` does: visit i becomes layer i, each low-rank pair is
/// multiplied out in float32 and added to its matrix (W + B A), biases and norms of a visit's own take their
/// places. Matrices with a pair become `merged_as`, or where none is given stay float32 if they are and
/// become bf16 otherwise; all others are views, so that layers which were shared stay shared in memory.
/// Throws Error for a pair's bias on a map that has none in this architecture.
Checkpoint unroll(const Checkpoint& checkpoint, std::optional<DType> merged_as = std::nullopt);

}  // namespace fathom
