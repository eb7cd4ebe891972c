// All that a training step works with, put together from what a run is given.
#pragma once

#include <memory>
#include <optional>
#include <string>

#include "corpus/packing.h"
#include "train/model/model.h"
#include "train/run/ranks.h"
#include "train/step/adamw.h"
#include "train/step/buckets.h"
#include "train/step/kept_memory.h"
#include "train/step/step_runner.h"
#include "train/step/teacher.h"
#include "train/train.h"

namespace fathom {

struct Session {
  /// Throws Error or UsageError for what does not fit together. All must outlive it.
  Session(const TrainInputs& inputs, const TrainOptions& train_options, const Ranks& ranks);

  /// The model as it is now, as the run would leave it.
  Checkpoint trained() const;
  /// Of a checkpoint on the disk: the trained weights and their moments, in float32.
  std::int64_t checkpoint_bytes() const;
  /// The least that the trained model takes there: two bytes a weight.
  std::int64_t least_model_bytes() const;
  /// Of the teacher's likeliest tokens.
  TopForm top_form() const;
  /// Steps for the tokens asked for.
  std::int64_t steps() const { return (options.tokens + runner.tokens() - 1) / runner.tokens(); }

  const TrainOptions& options;
  Device device;  ///< the one chosen, which is there
  KeptMemory kept_memory;
  Checkpoint start;  ///< the student, with new adapters for LoRA
  Packing packing;
  TrainModel model;
  Buckets buckets;
  AdamW optimiser;
  std::unique_ptr<Teacher> teacher;
  std::optional<CachedTeacher> cached_teacher;  ///< in the place of `teacher`
  StepRunner runner;
};

/// Of plan and tensors.
std::string digest(const Checkpoint& checkpoint);

/// Says on standard error how many sequences of a text are left out, if some are.
void note_left_out(const Packing& packing, std::int64_t context);

/// How the text is packed for these options.
PackingOptions packing_options(const Checkpoint& student, const TrainOptions& options);

}  // namespace fathom
