#include "train/train.h"

#include <ATen/Parallel.h>
#include <malloc.h>

#include <algorithm>
#include <chrono>
#include <cmath>
#include <limits>
#include <optional>

#include "base/error.h"
#include "base/interrupt.h"
#include "base/progress.h"
#include "base/threads.h"
#include "train/adamw.h"
#include "train/fingerprint.h"
#include "train/head_loss.h"
#include "train/lora.h"
#include "train/model.h"
#include "train/packing.h"
#include "train/run_folder.h"
#include "train/schedule.h"
#include "train/teacher.h"

namespace fathom {
namespace {

std::string digest(const Checkpoint& checkpoint) {
  Fingerprint result;
  result.add(to_json(checkpoint.plan).dump());
  for (const auto& [name, tensor] : checkpoint.tensors) {
    result.add(name);
    result.add(to_string(tensor.shape));
    result.add(tensor.data);
  }
  return result.hex();
}

/// What makes a run this run: when to stop for time and how often to save may change.
Json identity(const Checkpoint& student, const Checkpoint* teacher, const Packing& packing,
              const TrainOptions& options) {
  Json chosen = to_json(options);
  chosen.erase("checkpoint_every");
  chosen.erase("max_minutes");
  Fingerprint text;
  text.add(std::as_bytes(std::span(packing.stream())));
  Json result = {{"options", chosen}, {"student", digest(student)}, {"text", text.hex()}};
  result["teacher"] = teacher != nullptr ? digest(*teacher) : "none";
  return result;
}

void check_models(const Checkpoint& student, const Checkpoint* teacher, const TrainOptions& options) {
  const std::string where = student.source.string();
  if (options.distil_weight > 0 && teacher == nullptr) fail_usage("distillation needs a teacher");
  if (teacher != nullptr && teacher->config.vocab_size != student.config.vocab_size) {
    fail("{}: the teacher has a vocabulary of {}, the student {} has {}: they must be the same",
         teacher->source.string(), teacher->config.vocab_size, where, student.config.vocab_size);
  }
  if (options.trainable == Trainable::adapters && student.plan.adapters() == 0) {
    fail("{}: the model has no adapters to train: train everything (--train all) or add some (--train lora)",
         where);
  }
  if (options.context > student.config.max_positions) {
    fail_usage("--context {} is more than the {} positions of {}", options.context,
               student.config.max_positions, where);
  }
}

void check_tokens(const Packing& packing, const Checkpoint& student) {
  const auto [least, most] = std::ranges::minmax(packing.stream());
  if (least < 0 || most >= student.config.vocab_size) {
    fail("{}: the text has token {}, outside of the vocabulary of {}: was it tokenised for another model?",
         student.source.string(), least < 0 ? least : most, student.config.vocab_size);
  }
}

at::Tensor ids_of(const std::vector<Sequence>& sequences) {
  const auto length = static_cast<std::int64_t>(sequences.front().inputs.size());
  at::Tensor ids = at::empty({static_cast<std::int64_t>(sequences.size()), length}, at::kLong);
  auto* out = ids.data_ptr<std::int64_t>();
  for (const Sequence& sequence : sequences) out = std::ranges::copy(sequence.inputs, out).out;
  return ids;
}

/// Forward, losses and backward of one step's sequences, a micro-batch at a time: gradients add up in the
/// model.
class StepRunner {
 public:
  StepRunner(TrainModel& model, Packing& packing, std::optional<Teacher>& teacher,
             const TrainOptions& options)
      : model_(model), packing_(packing), teacher_(teacher), options_(options) {
    sequences_ = std::max<std::int64_t>(1, options.tokens_per_step / options.context);
  }

  std::int64_t tokens() const { return sequences_ * options_.context; }

  /// Means over the tokens of step number `step` (from 0).
  LossSums run(std::int64_t step) {
    LossSums mean;
    for (std::int64_t done = 0; done < sequences_; done += options_.micro_batch) {
      std::vector<Sequence> batch;
      for (std::int64_t i = done; i < std::min(sequences_, done + options_.micro_batch); ++i) {
        batch.push_back(packing_.at(step * sequences_ + i));
      }
      const LossSums sums = run(batch);
      mean.cross_entropy += sums.cross_entropy / static_cast<double>(tokens());
      mean.divergence += sums.divergence / static_cast<double>(tokens());
    }
    return mean;
  }

 private:
  LossSums run(const std::vector<Sequence>& batch) {
    std::vector<std::int32_t> labels;
    for (const Sequence& sequence : batch) {
      labels.insert(labels.end(), sequence.labels.begin(), sequence.labels.end());
    }
    TeacherLogits teacher_logits;
    const bool distil = options_.distil_weight > 0;
    if (distil) {
      teacher_->read(batch);
      teacher_logits = [this](std::int64_t first, std::int64_t rows, float* logits) {
        teacher_->logits(first, rows, logits);
      };
    }
    const LossWeights weights{.cross_entropy = static_cast<float>(options_.ce_weight),
                              .divergence = static_cast<float>(options_.distil_weight),
                              .temperature = static_cast<float>(options_.temperature),
                              .softcap = static_cast<float>(model_.config().logit_softcap),
                              .scale = 1 / static_cast<float>(tokens())};
    const at::Tensor hidden = model_.forward(ids_of(batch));
    at::Tensor gradient;
    const LossSums sums =
        head_loss(hidden.detach(), model_.head(), labels, weights, teacher_logits, gradient);
    hidden.backward(gradient);
    return sums;
  }

  TrainModel& model_;
  Packing& packing_;
  std::optional<Teacher>& teacher_;
  const TrainOptions& options_;
  std::int64_t sequences_;  ///< a step's
};

/// Activations are megabytes each, freed and taken again with every layer. By default the C library hands
/// such memory back to the system each time, and every page of it is zeroed and faulted in anew: a tenth of a
/// step. While this object lives it keeps what was freed.
class KeptMemory {
 public:
  KeptMemory() {
    mallopt(M_MMAP_THRESHOLD, 32 << 20);  // the most that it takes
    mallopt(M_TRIM_THRESHOLD, std::numeric_limits<int>::max());
  }
  ~KeptMemory() {
    mallopt(M_MMAP_THRESHOLD, 128 << 10);
    mallopt(M_TRIM_THRESHOLD, 128 << 10);
    malloc_trim(0);
  }
  KeptMemory(const KeptMemory&) = delete;
  KeptMemory& operator=(const KeptMemory&) = delete;
};

Checkpoint finished(const TrainModel& model, const Checkpoint& start, const TrainOptions& options) {
  Checkpoint result = model.trained(start);
  const bool merges = options.trainable == Trainable::lora && options.merge && !start.plan.is_recursive();
  return merges ? merge_lora(result) : result;
}

}  // namespace

TrainResult train(const Checkpoint& student, const Checkpoint* teacher,
                  const std::vector<std::vector<Token>>& documents, Token separator,
                  const TrainOptions& options, const std::filesystem::path& work, bool resume) {
  using Clock = std::chrono::steady_clock;
  check_options(options);
  check_models(student, teacher, options);
  Packing packing(documents, separator, options.context, options.bos, options.seed);
  check_tokens(packing, student);
  at::set_num_threads(thread_count());
  const KeptMemory kept_memory;

  const bool lora = options.trainable == Trainable::lora;
  const Checkpoint start = lora ? with_lora(student, options) : student;
  RunFolder folder(work, identity(start, teacher, packing, options));
  TrainModel model(start,
                   {.bf16 = options.bf16,
                    .trainable = options.trainable,
                    .adapter_scale = lora ? options.lora_alpha / static_cast<double>(options.lora_rank) : 1});
  AdamW optimiser(model.parameters(), options);
  std::optional<Teacher> teacher_engine;
  if (options.distil_weight > 0) teacher_engine.emplace(*teacher, options.context, options.bf16);
  StepRunner runner(model, packing, teacher_engine, options);

  const std::int64_t tokens = runner.tokens(), most = (options.tokens + tokens - 1) / tokens;
  RunState state{.step = 0, .total_steps = most, .seconds = 0};
  const bool resumed = resume && folder.resume(state, [&](const TensorMap& tensors, const RunState& found,
                                                          const std::string& file) {
    optimiser.restore(tensors, found.step, file);
  });
  if (!resumed) folder.clear();

  const std::int64_t first_step = state.step;
  Progress progress("training", (state.total_steps - first_step) * tokens, "tok");
  double later_seconds = 0;  // of this process's steps after its first, which is slow: all memory is new
  while (state.step < state.total_steps && !interrupted()) {
    const auto begin = Clock::now();
    const LossSums mean = runner.run(state.step);
    TrainStep step{.step = state.step + 1, .tokens = (state.step + 1) * tokens};
    step.ce = mean.cross_entropy;
    step.kl = mean.divergence;
    step.loss = options.ce_weight * step.ce + options.distil_weight * step.kl;
    step.learning_rate = learning_rate(options, state.step, state.total_steps);
    step.gradient_norm = optimiser.gradient_norm();
    if (!std::isfinite(step.loss) || !std::isfinite(step.gradient_norm)) {
      fail(
          "{}: at step {} the loss is {} and the gradient's norm {}: lower the learning rate (now {}) or see "
          "whether the model is sound",
          student.source.string(), step.step, step.loss, step.gradient_norm, step.learning_rate);
    }
    optimiser.step(step.learning_rate, step.gradient_norm);
    step.seconds = std::chrono::duration<double>(Clock::now() - begin).count();
    state.step = step.step;
    state.seconds += step.seconds;
    folder.append(step);

    const std::int64_t later_steps = state.step - first_step - 1;
    if (later_steps > 0) later_seconds += step.seconds;
    const double pace = later_steps > 0 ? later_seconds / static_cast<double>(later_steps) : step.seconds;
    state.total_steps = steps_in_time(options, state.step, pace, state.seconds, state.total_steps, most);
    progress.set_total((state.total_steps - first_step) * tokens);
    progress.advance(tokens, fmt::format("loss {:.3f}", step.loss));
    if (options.checkpoint_every > 0 && state.step % options.checkpoint_every == 0) {
      folder.save(state, optimiser.state());
    }
  }
  progress.finish();
  TrainResult result{.model = finished(model, start, options), .steps = folder.steps(), .interrupted = false};
  if (state.step < state.total_steps) {
    result.interrupted = true;
    folder.save(state, optimiser.state());
  }
  return result;
}

}  // namespace fathom
