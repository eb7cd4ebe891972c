// Uptraining, distillation and healing with libtorch. Torch's headers stay inside train/*.cpp.
#pragma once

#include <cstdint>
#include <filesystem>
#include <functional>
#include <optional>
#include <string>
#include <vector>

#include "corpus/packing.h"
#include "model/checkpoint.h"
#include "train/kernels/vocabulary_loss.h"
#include "train/model/exits.h"
#include "train/run/ranks.h"

namespace fathom {

/// What is trained.
enum class Trainable {
  all,       ///< every weight, adapters too
  adapters,  ///< the adapters that the model has
  lora  ///< new low-rank pairs on `lora.targets` of every visit (healing); merged into the weights at the end
        ///< where the plan is plain and `merge` is set, kept as adapters otherwise
};

/// Where a run computes, and by what.
enum class Device {
  automatic,  ///< cuda where libtorch sees a GPU, else cpu
  cpu,        ///< Fathom's own kernels
  cuda,       ///< torch's operations on a GPU: of several ranks on a machine each has its own
  torch       ///< the same operations on the CPU
};

/// How weights that are not trained are held, where they are matrices of the layers.
enum class FrozenType {
  full,  ///< in the type that products compute in
  nf4,   ///< 4-bit NormalFloat with double quantisation: QLoRA (train/ops/four_bit.h)
  int4   ///< 4-bit integers in groups of 32
};

/// What happens at a step whose loss or gradient is no number, or whose loss is a spike.
enum class BadStep {
  note,  ///< said on standard error, trained on (not for what is no number)
  skip,  ///< no update: as if the data had not been there
  stop   ///< the run ends with an error and a checkpoint from before the step
};

struct GuardOptions {
  BadStep on_nan = BadStep::stop, on_spike = BadStep::note;
  /// A loss so many standard deviations above the mean of the steps before is a spike; 0: none is.
  double spike_deviations = 10;
};

/// For Trainable::lora.
struct LoraOptions {
  std::vector<Linear> targets = {Linear::gate, Linear::up, Linear::down};
  std::int64_t rank = 64;
  double alpha = 64;  ///< scale alpha / rank, folded into B when written
  bool merge = true;
};

struct LossOptions {
  double cross_entropy = 1;  ///< weight of cross-entropy with the text
  double divergence = 0;     ///< weight of the divergence from the teacher, which it needs
  Divergence kind = Divergence::forward_kl;
  double temperature = 1;  ///< of the divergence
};

/// Layer dropout (train/model/layer_dropout.h).
struct LayerDropoutOptions {
  double rate = 0;     ///< of the last visit; 0: none
  bool grows = false;  ///< from 0 at the first step, exponentially: for training from scratch
};

/// Visits after which the hidden states of student and teacher are compared.
struct HiddenPair {
  std::int64_t student = 0, teacher = 0;
};

struct HiddenLossOptions {
  double weight = 0;  ///< of the mean square difference (train/ops/hidden_loss.h); needs a teacher
  std::vector<HiddenPair> pairs;
};

/// The teacher's most probable tokens, kept from one epoch and run to the next (train/step/teacher_cache.h).
/// The divergence is then that over these and one event for all others (train/step/top_k.h).
struct TeacherCacheOptions {
  std::filesystem::path folder;  ///< empty: none
  std::int64_t top_k = 64;       ///< at most the vocabulary
};

/// AdamW and its schedule.
struct OptimiserOptions {
  double learning_rate = 3e-4, min_learning_rate = 0;
  double warmup = 0.027;  ///< fraction of the steps, linear from 0; then cosine to min_learning_rate
  double beta1 = 0.9, beta2 = 0.95, epsilon = 1e-8, weight_decay = 0;
  double clip = 1;  ///< of the gradient's global norm; 0: none
};

struct TrainOptions {
  Trainable trainable = Trainable::all;
  FrozenType frozen = FrozenType::full;
  LoraOptions lora;
  LossOptions loss;
  TeacherCacheOptions teacher_cache;
  ExitOptions exits;
  LayerDropoutOptions layer_dropout;
  HiddenLossOptions hidden;
  OptimiserOptions optimiser;

  std::int64_t tokens = 100'000;         ///< the whole run
  std::int64_t tokens_per_step = 2'048;  ///< rounded to whole sequences
  std::int64_t context = 512;
  std::int64_t micro_batch = 4;  ///< sequences a forward pass; gradients accumulate up to tokens_per_step
  /// A visit of the plan keeps its input only and is computed again in the way back: the same values and
  /// gradients to the last bit, with less memory and a third more work (Chen et al. 2016, arXiv 1604.06174).
  bool gradient_checkpointing = false;
  bool bf16 = true;  ///< compute type of products; float32 master weights and optimiser either way
  std::uint64_t seed = 0;
  Token bos = -1;  ///< put before every sequence, for models that want one before any text (Gemma); -1: none
  bool within_documents = false;  ///< attention does not see what lies before a document (corpus/packing.h)

  GuardOptions guard;
  std::int64_t evaluate_every = 0;    ///< steps; 0: never
  std::int64_t checkpoint_every = 0;  ///< steps; 0: not by their number
  double checkpoint_minutes = 0;  ///< between two; 0: not by the clock. An interrupted run keeps one anyway
  /// The run takes at most about so many minutes: from the first step on the number of steps is estimated
  /// from their speed, so that the schedule (warm-up, cosine) ends with the time. From the fourth step on it
  /// is only made shorter, if the machine turns out slower. A resumed run keeps the number decided. 0: no
  /// limit.
  double max_minutes = 0;
  Device device = Device::cpu;
  bool shard_optimiser = false;  ///< several ranks share the optimiser's moments out (ZeRO, stage 1)
};

/// The losses after a visit that is not the last.
struct ExitLoss {
  std::int64_t visit = 0;
  double weight = 0, ce = 0, kl = 0;  ///< kl: the divergence from the last visit's distribution
};

struct TrainStep {
  std::int64_t step = 0, tokens = 0;
  double loss = 0, ce = 0, kl = 0, learning_rate = 0, gradient_norm = 0, seconds = 0;
  double hidden = 0;                 ///< mean square difference from the teacher's hidden states
  std::vector<ExitLoss> exits = {};  ///< of those that the step learned
  bool skipped = false;              ///< no update was made (GuardOptions)
};

/// What is trained, with what, on what.
struct TrainInputs {
  const Checkpoint& student;
  const Checkpoint* teacher = nullptr;
  std::vector<MixedSource> text;
  /// Evaluated on every options.evaluate_every steps and at the end; the model with the lowest loss is kept
  /// in the run's folder.
  TokenStore held_out = {};
  /// What else is noted of the model at an evaluation, such as samples; may be empty.
  std::function<Json(const Checkpoint&)> sample = {};
};

/// Throws Error or UsageError for models and options that do not fit together, or a device that is not there;
/// `text` is not looked at, so that this can be done before it is read. train and estimate_training do it,
/// too.
void check_inputs(const TrainInputs& inputs, const TrainOptions& options);

struct TrainResult {
  Checkpoint model;
  std::vector<TrainStep> steps;  ///< known to rank 0
  bool interrupted = false;      ///< stopped by SIGINT; a checkpoint to resume from was written
};

/// Trains the student on sequences of the text (corpus/packing.h). Losses are means over the tokens learned
/// in a step. `work` is the run's folder (train/run/run_folder.h). With `resume` the run goes on exactly
/// where its last whole checkpoint stopped (same losses to the last bit as if never stopped, with the same
/// number of threads and of ranks; on another number, to rounding), or starts if there is none; without, it
/// starts anew. Each of the `ranks` computes a part of every step; all are given the same inputs and a folder
/// that they share, which rank 0 alone writes to. Throws Error (a loss that is no number, a checkpoint of
/// another run, ids outside the vocabulary, a full disk: what was there before stays, a rank that is gone,
/// ...).
TrainResult train(const TrainInputs& inputs, const TrainOptions& options, const std::filesystem::path& work,
                  bool resume, const Ranks& ranks = {});

/// What a run needs, for a look before it starts.
struct TrainEstimate {
  std::int64_t parameters = 0, trained = 0;
  std::int64_t steps = 0, tokens = 0;
  std::int64_t weight_bytes = 0;     ///< of the model: what it computes with, and float32 masters
  std::int64_t optimiser_bytes = 0;  ///< gradients and both moments
  std::int64_t teacher_bytes = 0;
  std::int64_t teacher_cache_bytes = 0;  ///< on the disk, if no token of the run comes twice
  std::int64_t peak_bytes = 0;        ///< over a micro-batch, all of the above included; on a GPU its memory
  std::int64_t checkpoint_bytes = 0;  ///< of one on the disk; two are kept
  double step_seconds = 0;
};

/// Runs two micro-batches, without a trace on the disk, and scales the second one's time to a step.
TrainEstimate estimate_training(const TrainInputs& inputs, const TrainOptions& options);

/// Logits [tokens, vocab] by the trainer's own forward pass in float32: for parity tests with the runtime.
std::vector<float> train_logits(const Checkpoint& checkpoint, const std::vector<Token>& ids,
                                Device device = Device::cpu);

/// Cross-entropy of ids (mean over tokens 1..) and its gradients by tensor name, in float32: for parity
/// tests.
double train_gradients(const Checkpoint& checkpoint, const std::vector<Token>& ids, TensorMap& gradients,
                       Device device = Device::cpu);

Json to_json(const TrainOptions& options);

}  // namespace fathom
