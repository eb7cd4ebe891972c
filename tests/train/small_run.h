// What the tests of training runs share.
#pragma once

#include <cstdint>
#include <string>

#include "model/checkpoint.h"
#include "oracle.h"
#include "train/train.h"

namespace fathom {

/// A model of the oracle's, small enough to be trained within milliseconds.
inline Checkpoint tiny(const std::string& name = "llama") { return load_checkpoint(load_oracle(name).model); }

/// Runs of so many steps of 64 tokens, in two micro-batches.
inline TrainOptions small(std::int64_t steps) {
  TrainOptions options;
  options.context = 16;
  options.micro_batch = 2;
  options.tokens_per_step = 64;
  options.tokens = 64 * steps;
  options.optimiser.learning_rate = 3e-3;
  return options;
}

}  // namespace fathom
