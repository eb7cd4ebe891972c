// The folder of a training run on disk:
//   metrics.jsonl                        a line a step
//   evaluations.jsonl                    a line an evaluation
//   events.out.tfevents.*                both again, for TensorBoard
//   checkpoints/step-00000040/           weights and optimiser (state.safetensors), position and identity
//   (state.json)
//   best/                                the model with the lowest loss on held-out text
// A checkpoint is written beside and renamed, so that it is there as a whole or not at all; the last two are
// kept, so that one damaged afterwards costs only the steps since the one before.
#pragma once

#include <filesystem>
#include <functional>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "base/json.h"
#include "formats/safetensors.h"
#include "train/run/event_file.h"
#include "train/step/guard.h"
#include "train/train.h"

namespace fathom {

/// What a checkpoint holds besides tensors. The data position, the learning rate and the order of the
/// sequences all follow from the step and the options.
struct RunState {
  std::int64_t step = 0;         ///< done, with or without an update
  std::int64_t updates = 0;      ///< of the weights
  std::int64_t total_steps = 0;  ///< as decided so far
  double seconds = 0;            ///< of training so far
  double best_loss = 0;          ///< the lowest on held-out text
  std::int64_t best_step = 0;    ///< where that was; 0: not evaluated yet
  LossHistory history;
};

/// "OUT.run" for "OUT" and "OUT/" with `ending` ".run": beside the result, never within it.
std::filesystem::path beside(const std::filesystem::path& directory, const std::string& ending);

class RunFolder {
 public:
  /// `identity` is everything that must be the same for a run to be the same run. Creates the folder.
  RunFolder(std::filesystem::path folder, Json identity);

  /// Forgets what an earlier run left: its checkpoints and metrics.
  void clear();

  /// Marks the run in `folder` as ended: removes its checkpoints, gigabytes that nobody needs once the model
  /// is there, and what was tokenised for it.
  static void finish(const std::filesystem::path& folder);

  /// Gives the newest whole checkpoint to `restore`. A damaged one (or one that `restore` throws Error for)
  /// is passed over with a note on standard error for the one before. False if there is none. Throws Error if
  /// a checkpoint is of another run. Writes nothing.
  bool resume(RunState& state, const std::function<void(const TensorMap& tensors, const RunState& state,
                                                        const std::string& file)>& restore);

  /// Cuts metrics and evaluations back to the step that the run goes on from and begins TensorBoard's file
  /// with them.
  void cut_back(std::int64_t last_step);

  /// Throws Error when the disk is full, for instance; the checkpoints before stay.
  void save(const RunState& state, const std::vector<std::pair<std::string, Tensor>>& tensors);

  void append(const TrainStep& step);
  /// An evaluation: {"step", "loss", ...}.
  void append_evaluation(const Json& evaluation);
  std::filesystem::path best() const { return folder_ / "best"; }
  const std::vector<TrainStep>& steps() const { return steps_; }  ///< those in metrics.jsonl

 private:
  std::vector<std::filesystem::path> checkpoints() const;  ///< oldest first
  std::string kept_lines(const std::string& name, std::int64_t last_step,
                         const std::function<void(const JsonObject&)>& take) const;
  void append_line(const std::string& name, const Json& line) const;

  std::filesystem::path folder_;
  Json identity_;
  std::vector<TrainStep> steps_;
  std::optional<EventFile> events_;
};

}  // namespace fathom
