#include "train/run/session.h"

#include <ATen/Parallel.h>
#include <fmt/format.h>
#include <malloc.h>

#include <algorithm>
#include <cstdio>
#include <memory>

#include "base/error.h"
#include "base/file.h"
#include "base/fingerprint.h"
#include "base/progress.h"
#include "base/threads.h"
#include "depth/unroll.h"
#include "train/ops/lora.h"
#include "train/run/device.h"
#include "train/run/options.h"

namespace fathom {
namespace {

/// That the visits named by the options are there.
void check_depths(const Checkpoint& student, const Checkpoint* teacher, const TrainOptions& options) {
  const auto check = [](const char* what, std::int64_t visit, std::int64_t end) {
    if (visit < 0 || visit >= end) fail_usage("{} visit {}, expected 0 to {}", what, visit, end - 1);
  };
  const DepthPlan& plan = student.plan;
  std::int64_t before = -1;
  for (const std::int64_t visit : options.exits.visits) {
    check("an exit after", visit, plan.depth() - 1);
    if (visit <= before) fail_usage("exits must ascend: {} comes after {}", visit, before);
    before = visit;
  }
  for (const HiddenPair& pair : options.hidden.pairs) {
    if (teacher->config.hidden_size != student.config.hidden_size) {
      fail("{}: hidden states of {} values cannot be compared with those of {} of the student {}",
           teacher->source.string(), teacher->config.hidden_size, student.config.hidden_size,
           student.source.string());
    }
    check("hidden states after the student's", pair.student, plan.depth());
    check("hidden states after the teacher's", pair.teacher, teacher->plan.depth());
  }
}

/// The student as it is when the run begins.
Checkpoint checked_start(const TrainInputs& inputs, const TrainOptions& options) {
  check_inputs(inputs, options);
  at::set_num_threads(thread_count());
  Checkpoint start =
      options.trainable == Trainable::lora ? with_lora(inputs.student, options) : inputs.student;
  for (const std::int64_t visit : options.exits.visits) {
    start.plan.visits[static_cast<std::size_t>(visit)].exit = true;
  }
  return start;
}

/// That the options name, ready to be computed with.
Device ready_device(const TrainOptions& options, const Ranks& ranks) {
  const Device device = found_device(options.device);
  if (device == Device::cuda) use_gpu(ranks.local_rank());
  return device;
}

/// All that the teacher's answers depend on.
std::unique_ptr<TeacherCache> opened_cache(const Checkpoint& teacher, const Session& session,
                                           const Ranks& ranks) {
  const TrainOptions& options = session.options;
  const TopForm form = session.top_form();
  const Json identity = {{"teacher", digest(teacher)},
                         {"bf16", options.bf16},
                         {"temperature", options.loss.temperature},
                         {"top_k", form.k},
                         {"vocab", form.vocab},
                         {"text", session.packing.digest()},
                         {"context", options.context},
                         {"bos", options.bos},
                         {"within_documents", options.within_documents}};
  const std::int64_t rows = std::min(session.packing.learned(), session.steps() * session.runner.tokens());
  auto cache = std::make_unique<TeacherCache>(options.teacher_cache.folder, identity, form, rows);
  if (ranks.rank() > 0) return cache;
  fmt::print(stderr, "{}: the teacher's top {} of {} tokens: {}, of which {} are there\n",
             options.teacher_cache.folder.string(), form.k, format_count(rows),
             format_bytes(form.bytes(rows)), format_bytes(cache->bytes()));
  return cache;
}

double adapter_scale(const TrainOptions& options) {
  const bool lora = options.trainable == Trainable::lora;
  return lora ? options.lora.alpha / static_cast<double>(options.lora.rank) : 1;
}

bool needs_teacher(const TrainOptions& options) {
  return options.loss.divergence > 0 || options.hidden.weight > 0;
}

}  // namespace

void check_inputs(const TrainInputs& inputs, const TrainOptions& options) {
  const auto& [student, teacher, text, held_out, sample] = inputs;
  const std::string where = student.source.string();
  check_options(options);
  found_device(options.device);
  if (needs_teacher(options) && teacher == nullptr) fail_usage("distillation needs a teacher (--teacher)");
  if (teacher != nullptr && teacher->config.vocab_size != student.config.vocab_size) {
    fail("{}: the teacher has a vocabulary of {}, the student {} has {}: they must be the same",
         teacher->source.string(), teacher->config.vocab_size, where, student.config.vocab_size);
  }
  check_depths(student, teacher, options);
  if (options.trainable == Trainable::adapters && student.plan.adapters() == 0) {
    fail("{}: the model has no adapters to train: train everything (--train all) or add some (--train lora)",
         where);
  }
  if (options.trainable == Trainable::all && options.frozen != FrozenType::full) {
    fail_usage(
        "--base {} is for weights that do not change, and --train all changes all: choose --train lora or "
        "adapters, or leave --base out",
        name_of(frozen_types, options.frozen));
  }
  if (options.context > student.config.max_positions) {
    fail_usage("--context {} is more than the {} positions of {}", options.context,
               student.config.max_positions, where);
  }
  if (options.evaluate_every > 0 && held_out.size() == 0) {
    fail_usage("evaluation every {} steps needs a held-out text", options.evaluate_every);
  }
}

Session::Session(const TrainInputs& inputs, const TrainOptions& train_options, const Ranks& ranks)
    : options(train_options),
      device(ready_device(options, ranks)),
      start(checked_start(inputs, options)),
      packing(inputs.text, packing_options(inputs.student, options)),
      model(start, {.bf16 = options.bf16,
                    .trainable = options.trainable,
                    .adapter_scale = adapter_scale(options),
                    .frozen = options.frozen,
                    .gradient_checkpointing = options.gradient_checkpointing,
                    .device = device}),
      buckets(model.parameters(), start.plan, ranks, options.shard_optimiser),
      optimiser(model.parameters(), options.optimiser, buckets, model.operations()),
      runner(model, packing, teacher, cached_teacher, buckets, ranks, options) {
  if (ranks.count() > runner.sequences()) {
    fail_usage("a step is {} sequences of {} tokens, too few for {} ranks: raise --batch-tokens",
               runner.sequences(), options.context, ranks.count());
  }
  if (ranks.rank() == 0) note_left_out(packing, options.context);
  model.before_visit([this](std::int64_t visit) { optimiser.finish(visit); });
  if (ranks.count() > 1) {
    model.on_complete([this](std::int64_t visit) { buckets.complete(visit); });
    malloc_trim(0);  // gives back where the parameters lay before they were put into buckets
  }
  if (!options.teacher_cache.folder.empty()) {
    cached_teacher.emplace(*inputs.teacher, options.bf16, device,
                           static_cast<float>(options.loss.temperature), top_form(),
                           opened_cache(*inputs.teacher, *this, ranks));
  } else if (needs_teacher(options)) {
    teacher = make_teacher(*inputs.teacher, options.context, options.bf16, device);
  }
}

TopForm Session::top_form() const {
  const std::int64_t vocab = start.config.vocab_size;
  return {.k = std::min(options.teacher_cache.top_k, vocab), .vocab = vocab, .context = options.context};
}

std::int64_t Session::checkpoint_bytes() const {
  std::int64_t trained = 0;
  for (const auto& [name, parameter] : model.parameters())
    trained += parameter.trainable() ? parameter.elements() : 0;
  return 3 * 4 * trained;
}

std::int64_t Session::least_model_bytes() const {
  std::int64_t weights = 0;
  for (const auto& [name, parameter] : model.parameters()) weights += parameter.elements();
  return 2 * weights;
}

Checkpoint Session::trained() const {
  kept_memory.give_back();
  Checkpoint result = model.trained(start);
  const bool merges =
      options.trainable == Trainable::lora && options.lora.merge && !start.plan.is_recursive();
  return merges ? unroll(result) : result;
}

std::string digest(const Checkpoint& checkpoint) {
  Fingerprint result;
  result.add(to_json(checkpoint.plan).dump());
  for (const auto& [name, tensor] : checkpoint.tensors) {
    result.add(name);
    result.add(to_string(tensor.shape));
    result.add(tensor.data);
    release_pages(tensor.data);
  }
  return result.hex();
}

void note_left_out(const Packing& packing, std::int64_t context) {
  if (packing.left_out() == 0) return;
  print_note(
      fmt::format("{} of {} sequences of {} tokens have nothing to learn in them, such as the midst of a "
                  "long prompt, and "
                  "are left out. What is learned behind them does not see them: raise --context if it should",
                  packing.left_out(), packing.left_out() + packing.sequences(), context));
}

PackingOptions packing_options(const Checkpoint& student, const TrainOptions& options) {
  return {.context = options.context,
          .vocab = student.config.vocab_size,
          .bos = options.bos,
          .within_documents = options.within_documents,
          .seed = options.seed};
}

}  // namespace fathom
