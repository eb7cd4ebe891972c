#include "train/session.h"

#include <ATen/Parallel.h>
#include <malloc.h>

#include <limits>

#include "base/error.h"
#include "base/threads.h"
#include "train/lora.h"
#include "train/schedule.h"

namespace fathom {
namespace {

Checkpoint checked_start(const TrainInputs& inputs, const TrainOptions& options) {
  check_inputs(inputs, options);
  at::set_num_threads(thread_count());
  return options.trainable == Trainable::lora ? with_lora(inputs.student, options) : inputs.student;
}

double adapter_scale(const TrainOptions& options) {
  const bool lora = options.trainable == Trainable::lora;
  return lora ? options.lora.alpha / static_cast<double>(options.lora.rank) : 1;
}

}  // namespace

void check_inputs(const TrainInputs& inputs, const TrainOptions& options) {
  const auto& [student, teacher, text, held_out, sample] = inputs;
  const std::string where = student.source.string();
  check_options(options);
  if (options.loss.divergence > 0 && teacher == nullptr) fail_usage("distillation needs a teacher");
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
  if (options.evaluate_every > 0 && held_out.size() == 0) {
    fail_usage("evaluation every {} steps needs a held-out text", options.evaluate_every);
  }
}

KeptMemory::KeptMemory() {
  mallopt(M_MMAP_THRESHOLD, 32 << 20);  // the most that it takes
  mallopt(M_TRIM_THRESHOLD, std::numeric_limits<int>::max());
}

KeptMemory::~KeptMemory() {
  mallopt(M_MMAP_THRESHOLD, 128 << 10);
  mallopt(M_TRIM_THRESHOLD, 128 << 10);
  malloc_trim(0);
}

Session::Session(const TrainInputs& inputs, const TrainOptions& train_options, const Ranks& ranks)
    : options(train_options),
      start(checked_start(inputs, options)),
      packing(inputs.text, packing_options(inputs.student, options)),
      model(start,
            {.bf16 = options.bf16, .trainable = options.trainable, .adapter_scale = adapter_scale(options)}),
      buckets(model.parameters(), start.plan, ranks, options.shard_optimiser),
      optimiser(model.parameters(), options.optimiser, buckets),
      runner(model, packing, teacher, buckets, ranks, options) {
  if (ranks.count() > runner.sequences()) {
    fail_usage("a step is {} sequences of {} tokens, too few for {} ranks: raise --batch-tokens",
               runner.sequences(), options.context, ranks.count());
  }
  if (ranks.count() > 1) {
    model.on_complete([this](std::int64_t visit) { buckets.complete(visit); });
    malloc_trim(0);  // gives back where the parameters lay before they were put into buckets
  }
  if (options.loss.divergence > 0) teacher.emplace(*inputs.teacher, options.context, options.bf16);
}

Checkpoint Session::trained() const {
  Checkpoint result = model.trained(start);
  const bool merges =
      options.trainable == Trainable::lora && options.lora.merge && !start.plan.is_recursive();
  return merges ? merge_lora(result) : result;
}

PackingOptions packing_options(const Checkpoint& student, const TrainOptions& options) {
  return {.context = options.context,
          .vocab = student.config.vocab_size,
          .bos = options.bos,
          .within_documents = options.within_documents,
          .seed = options.seed};
}

}  // namespace fathom
