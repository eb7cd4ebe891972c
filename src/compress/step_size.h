// How many tokens a training step takes on a device.
#pragma once

#include <cstdint>
#include <functional>
#include <string>

#include "model/checkpoint.h"
#include "train/train.h"

namespace fathom {

struct StepSize {
  std::int64_t sequences = 4;    ///< all side by side
  double learning_rate = 1;      ///< times the rate that suits steps of four sequences
  double tokens_per_second = 0;  ///< as probed; 0: it was not
};

/// What a step showed.
struct StepCost {
  double tokens_per_second = 0;
  std::int64_t peak_bytes = 0;
};

/// Doubles a step's sequences, from 4 up to 32, as long as that makes it faster by a tenth at least and the
/// next is likely to fit into nine tenths of `memory` bytes (0: unknown, all fit). AdamW's learning rate
/// grows with the root of the step (Malladi et al. 2022, arXiv 2205.10287).
StepSize widest_step(const std::function<StepCost(std::int64_t sequences)>& try_step, std::int64_t memory);

/// For training with the original as its own teacher, which is the most that any candidate takes. Four
/// sequences on the CPU, where wider steps are no faster and there are few of them; elsewhere by some steps
/// that are thrown away.
StepSize probe_step(const Checkpoint& original, const TrainOptions& training);

/// "steps of 4 x 512 tokens on NVIDIA H200".
std::string describe(const StepSize& size, const TrainOptions& training);

}  // namespace fathom
