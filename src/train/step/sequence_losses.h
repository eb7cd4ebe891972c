// Losses by the trainer's forward pass: how a model is judged on a device that the runtime does not compute
// on.
#pragma once

#include <span>
#include <vector>

#include "corpus/packing.h"
#include "model/checkpoint.h"
#include "train/train.h"

namespace fathom {

/// Mean cross-entropy of each sequence's labels, all of which are learned. Sequences are of one length. Shows
/// a progress bar; a signal throws Interrupted.
std::vector<double> sequence_losses(const Checkpoint& model, std::span<const Sequence> sequences, bool bf16,
                                    Device device);

}  // namespace fathom
