// Low-rank adaptation (Hu et al. 2021, arXiv 2106.09685): y = W x + (alpha / rank) B A x with W frozen.
#pragma once

#include "model/checkpoint.h"
#include "train/train.h"

namespace fathom {

/// `student` with an adapter of its own for every visit: a pair of float32 matrices for each of
/// options.lora.targets, A [rank, in] uniform in ±1/sqrt(in) (Kaiming, as PEFT starts it), B [out, rank]
/// zero, so that the model computes what it did. The rank is clipped to the matrix. Throws Error if the model
/// has adapters.
Checkpoint with_lora(const Checkpoint& student, const TrainOptions& options);

}  // namespace fathom
