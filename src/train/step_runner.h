// One step's sequences through the model, a micro-batch at a time.
#pragma once

#include <cstdint>
#include <optional>
#include <vector>

#include "corpus/packing.h"
#include "train/model.h"
#include "train/row_kernels.h"
#include "train/teacher.h"
#include "train/teacher_cache.h"
#include "train/train.h"

namespace fathom {

/// Means over the tokens learned in a step.
struct StepLoss {
  double cross_entropy = 0, divergence = 0;
  std::int64_t worst = 0;  ///< position of the first sequence of the micro-batch with the highest loss
};

struct MicroBatch;

class StepRunner {
 public:
  /// They must outlive it. For a divergence one of the teachers must be there at the first step.
  StepRunner(TrainModel& model, Packing& packing, std::optional<Teacher>& teacher,
             std::optional<CachedTeacher>& cached_teacher, const TrainOptions& options);

  std::int64_t tokens() const { return sequences_ * options_.context; }  ///< a step's

  /// Forward, losses and backward of step number `step` (from 0): gradients add up in the model.
  StepLoss run(std::int64_t step);
  /// The same of the first `sequences` of step 0 only.
  StepLoss run_part(std::int64_t sequences);

  /// The documents of the micro-batch at `position`.
  std::string describe(std::int64_t position);

 private:
  StepLoss run(std::int64_t first, std::int64_t sequences);
  LossSums run(const MicroBatch& batch, std::int64_t learned);

  TrainModel& model_;
  Packing& packing_;
  std::optional<Teacher>& teacher_;
  std::optional<CachedTeacher>& cached_teacher_;
  const TrainOptions& options_;
  std::int64_t sequences_;  ///< a step's
};

/// Mean cross-entropy of all sequences of `text`, once each.
double evaluate(TrainModel& model, Packing& text, std::int64_t micro_batch);

}  // namespace fathom
