// One step's sequences through the model, a micro-batch at a time.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <vector>

#include "corpus/packing.h"
#include "train/model/model.h"
#include "train/run/ranks.h"
#include "train/step/buckets.h"
#include "train/step/teacher.h"
#include "train/step/teacher_cache.h"
#include "train/train.h"

namespace fathom {

/// Means over the tokens learned in a step, on all ranks.
struct StepLoss {
  double cross_entropy = 0, divergence = 0, hidden = 0;
  std::vector<ExitLoss> exits = {};
  double total = 0;        ///< what is learned: all of the above by their weights
  std::int64_t worst = 0;  ///< position of the first sequence of the micro-batch with the highest loss
};

struct MicroBatch;
struct Streams;
class Roots;

class StepRunner {
 public:
  /// They must outlive it. For a divergence one of the teachers must be there at the first step.
  StepRunner(TrainModel& model, Packing& packing, std::unique_ptr<Teacher>& teacher,
             std::optional<CachedTeacher>& cached_teacher, Buckets& buckets, const Ranks& ranks,
             const TrainOptions& options);

  std::int64_t sequences() const { return sequences_; }                  ///< a step's
  std::int64_t tokens() const { return sequences_ * options_.context; }  ///< a step's

  /// Forward, losses and backward of this rank's part of step number `step` (from 0) of `steps`: gradients
  /// add up in the model, those of all ranks.
  StepLoss run(std::int64_t step, std::int64_t steps);
  /// The same of the first `sequences` of step 0 only, with what only comes with later steps.
  StepLoss run_part(std::int64_t sequences);

  /// The documents of the micro-batch at `position`.
  std::string describe(std::int64_t position);

 private:
  /// What all micro-batches of a step have in common.
  struct Step {
    std::int64_t number = 0, of = 0;
    std::int64_t learned = 0;       ///< tokens
    std::vector<ExitWeight> exits;  ///< the last visit at the end
  };

  StepLoss run(std::int64_t step, std::int64_t steps, RowRange own);
  /// A micro-batch's share of the step's means.
  StepLoss run(const Step& step, const MicroBatch& batch);
  TeacherLogits read_teacher(const MicroBatch& batch);
  void learn_heads(const Step& step, const MicroBatch& batch, const Streams& streams,
                   const TeacherLogits& teacher, Roots& roots, StepLoss& loss);
  void learn_hidden(const Step& step, const Streams& streams, Roots& roots, StepLoss& loss);
  StepLoss over_ranks(const StepLoss& own, double highest) const;

  TrainModel& model_;
  Packing& packing_;
  std::unique_ptr<Teacher>& teacher_;
  std::optional<CachedTeacher>& cached_teacher_;
  Buckets& buckets_;
  const Ranks& ranks_;
  const TrainOptions& options_;
  std::int64_t sequences_;  ///< a step's
};

/// Mean cross-entropy of all sequences of `text`, once each, which the ranks share out.
double evaluate(TrainModel& model, Packing& text, std::int64_t micro_batch, const Ranks& ranks);

}  // namespace fathom
