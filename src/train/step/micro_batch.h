// Sequences that go through a model together.
#pragma once

#include <ATen/ATen.h>

#include <cstdint>
#include <functional>
#include <set>
#include <span>
#include <vector>

#include "corpus/packing.h"
#include "train/model/model.h"

namespace fathom {

struct MicroBatch {
  std::vector<Sequence> sequences;
  std::vector<std::int64_t> positions;  ///< theirs in the row of all sequences
  std::vector<std::int32_t> labels;     ///< of the learned rows
  std::vector<std::int64_t> rows;       ///< which those are, of the sequences laid end to end

  MicroBatch(std::vector<Sequence> own, std::vector<std::int64_t> own_positions);
  MicroBatch(Packing& packing, std::int64_t first, std::int64_t count);
};

/// The residual streams [rows, width] of the learned rows after some visits.
struct Streams {
  std::vector<std::int64_t> visits;  ///< ascending
  std::vector<at::Tensor> rows;      ///< by visit

  const at::Tensor& after(std::int64_t visit) const;
};

/// The sequences that each visit takes in, of those at these positions.
using Kept = std::function<KeptSequences(std::span<const std::int64_t> positions)>;

/// Those after the visits wanted. Where attention stays within documents each is run by itself. `kept` may be
/// empty: all are.
Streams forward(TrainModel& model, const MicroBatch& batch, const std::set<std::int64_t>& wanted,
                const Kept& kept = {});

}  // namespace fathom
