#include "train/train.h"

#include <cstdio>
#include <cstdlib>
#include <memory>
#include <optional>

#include "base/error.h"
#include "base/file.h"
#include "base/file_lock.h"
#include "base/interrupt.h"
#include "base/progress.h"
#include "cli/config_file.h"
#include "cli/measuring_text.h"
#include "cli/train_mask.h"
#include "cli/train_options.h"
#include "cli/train_presets.h"
#include "cli/train_text.h"
#include "cli/verbs.h"
#include "model/shared_vocabulary.h"
#include "runtime/engine.h"
#include "runtime/generate.h"
#include "runtime/model.h"
#include "train/run/device.h"
#include "train/run/run_folder.h"

namespace fathom {
namespace {

namespace fs = std::filesystem;

std::FILE* figures_to(const TrainVerb& verb) { return verb.common.json == "-" ? stderr : stdout; }

void report(const TrainVerb& verb, const TrainOptions& options, const TrainResult& result) {
  double seconds = 0;
  for (const TrainStep& step : result.steps) seconds += step.seconds;
  const TrainStep first = result.steps.empty() ? TrainStep{} : result.steps.front();
  const TrainStep last = result.steps.empty() ? TrainStep{} : result.steps.back();
  const double rate = seconds > 0 ? static_cast<double>(last.tokens) / seconds : 0;
  const std::string device = device_name(found_device(options.device));
  fmt::print(figures_to(verb), "{} steps, {} tokens, loss {:.4f} -> {:.4f}, {:.0f} tokens/s on {}\n",
             last.step, last.tokens, first.loss, last.loss, rate, device);
  emit_json(verb.common, {{"model", verb.out},
                          {"steps", last.step},
                          {"tokens", last.tokens},
                          {"first_loss", first.loss},
                          {"last_loss", last.loss},
                          {"seconds", seconds},
                          {"tokens_per_second", rate},
                          {"device", device},
                          {"options", to_json(options)}});
}

void report(const TrainVerb& verb, const TrainOptions& options, const TrainEstimate& found) {
  const std::string device = device_name(found_device(options.device));
  const double seconds = found.step_seconds * static_cast<double>(found.steps);
  fmt::print(figures_to(verb),
             "model   {} parameters, {} are trained\n"
             "device  {}\n"
             "run     {} steps, {} tokens\n"
             "memory  {} at most: weights {}, gradients and optimiser {}, teacher {}, the rest activations\n"
             "time    {:.2f} s a step, {} in all, without evaluation\n"
             "disk    {} a checkpoint, of which two are kept\n",
             format_count(found.parameters), format_count(found.trained), device, found.steps, found.tokens,
             format_bytes(found.peak_bytes), format_bytes(found.weight_bytes),
             format_bytes(found.optimiser_bytes), format_bytes(found.teacher_bytes), found.step_seconds,
             format_duration(seconds), format_bytes(found.checkpoint_bytes));
  if (found.teacher_cache_bytes > 0) {
    fmt::print(figures_to(verb), "cache   {} for the teacher's likeliest tokens, if none comes twice\n",
               format_bytes(found.teacher_cache_bytes));
  }
  emit_json(verb.common, {{"parameters", found.parameters},
                          {"trained", found.trained},
                          {"device", device},
                          {"steps", found.steps},
                          {"tokens", found.tokens},
                          {"weight_bytes", found.weight_bytes},
                          {"optimiser_bytes", found.optimiser_bytes},
                          {"teacher_bytes", found.teacher_bytes},
                          {"teacher_cache_bytes", found.teacher_cache_bytes},
                          {"peak_bytes", found.peak_bytes},
                          {"checkpoint_bytes", found.checkpoint_bytes},
                          {"step_seconds", found.step_seconds},
                          {"seconds", seconds}});
}

Json continued(const TrainVerb& verb, const Tokenizer& tokenizer, const Checkpoint& model) {
  Engine engine(model, {.compute = float_compute(model)});
  Json samples = Json::array();
  for (const std::string& prompt : verb.prompts) {
    const int sequence = engine.open();
    const GenerateOptions options{.max_tokens = verb.prompt_tokens, .stop = {}, .sampler = {}};
    const Generated text =
        generate(engine, tokenizer, sequence, tokenizer.encode_prompt(prompt), options, nullptr);
    engine.close(sequence);
    samples.push_back({{"prompt", prompt}, {"text", text.text}});
  }
  return samples;
}

/// The model of --teacher, which must speak of the student's tokens.
Checkpoint loaded_teacher(const TrainVerb& verb, const Checkpoint& student, const Tokenizer& tokenizer) {
  Checkpoint teacher = load_checkpoint(verb.teacher);
  const bool compared = !verb.teacher_anyway && has_tokenizer(verb.teacher);
  if (!verb.teacher_anyway && !compared) {
    print_note(fmt::format("{}: no tokenizer beside the teacher; its tokens are taken to be the student's",
                           verb.teacher));
  }
  if (const auto found =
          compared ? first_difference(tokenizer, load_tokenizer(verb.teacher)) : std::nullopt) {
    fail(
        "{}: the teacher's tokenizer is not that of the student {}: {} is {} there, {} here. Take a teacher "
        "with the student's tokens; --teacher-anyway takes this one, whose answers mean other tokens",
        verb.teacher, verb.model, found->what, found->other, found->own);
  }
  const std::int64_t size = student.config.vocab_size, had = teacher.config.vocab_size;
  if ((!compared && !verb.teacher_anyway) || had <= size) return teacher;
  print_note(
      fmt::format("{}: the teacher's vocabulary of {} is cut to the student's {}", verb.teacher, had, size));
  return with_vocabulary(std::move(teacher), size);
}

bool has_ended(const fs::path& work) { return !fs::exists(work / "checkpoints"); }

/// The options of the run in --resume's folder, or those of --config and then of --preset. False when that
/// run has ended.
bool complete(CLI::App& app, TrainVerb& verb) {
  if (verb.resume.empty()) {
    if (!verb.config.empty()) read_config(app, verb.config);
    if (!verb.preset.empty()) read_settings(app, train_preset(verb.preset), "--preset " + verb.preset);
    return true;
  }
  if (!verb.config.empty()) fail_usage("--resume has the run's own configuration: leave --config out");
  const fs::path folder = verb.resume;
  if (!fs::exists(folder / "run.toml")) {
    fail("{}: no run.toml in it, so no run began there; the folder of a run is OUT.run", folder.string());
  }
  read_config(app, folder / "run.toml");
  return !has_ended(folder);
}

/// Two processes that train in one folder would write over each other's checkpoints.
std::unique_ptr<FileLock> locked(const fs::path& work) {
  auto lock = std::make_unique<FileLock>(work / "lock");
  if (lock->held()) return lock;
  fail("{}: {} is training in it: wait for its end, or choose another --out", work.string(), lock->holder());
}

void begin(CLI::App& app, const TrainVerb& verb, const fs::path& work) {
  check_save_target(verb.out, verb.overwrite);  // again: a run that ended meanwhile has put its model there
  const auto checkpoints = work / "checkpoints";
  if (!verb.overwrite && fs::exists(checkpoints) && !fs::is_empty(checkpoints)) {
    fail("{}: holds a run that was not finished: go on with --resume {}, or start anew with --overwrite",
         work.string(), work.string());
  }
  fs::create_directories(checkpoints);  // before run.toml: a run without them is one that has ended
  for (const char* name : {"MODEL", "--text", "--eval-text", "--teacher-cache", "--out"})
    make_absolute(*app.get_option(name));
  if (verb.teacher != "self") make_absolute(*app.get_option("--teacher"));
  write_file(work / "run.toml", written_config(app));
}

/// What the ranks do together. Rank 0 alone writes; the others wait until it has read the text and then find
/// it in the run's folder.
TrainResult train_together(CLI::App& app, const TrainVerb& verb, TrainInputs& inputs,
                           const Tokenizer& tokenizer, const TrainOptions& options, const fs::path& work,
                           const Ranks& ranks) {
  const bool resume = !verb.resume.empty();
  if (!resume && ranks.is_first()) begin(app, verb, work);
  if (ranks.is_first()) inputs.text = training_text(verb, inputs, tokenizer, options, work);
  ranks.of_first(0, "rank 0 to read the text");
  if (!ranks.is_first()) inputs.text = training_text(verb, inputs, tokenizer, options, work);
  TrainResult result = train(inputs, options, work, resume, ranks);
  ranks.leave();
  return result;
}

void run(CLI::App& app, TrainVerb& verb) {
  const Launch launch = launch_from([](const char* name) { return std::getenv(name); });
  const bool speaks = launch.rank == 0;
  const bool unfinished = complete(app, verb);
  if (verb.print_config) {
    if (speaks) fmt::print("{}", written_config(app));
    return;
  }
  if (verb.model.empty()) fail_usage("MODEL is missing: the model to train");
  apply_common(verb.common);
  if (!speaks) set_quiet(true);
  if (verb.show_mask > 0) {
    if (speaks) show_mask(verb);
    return;
  }
  // A dry run writes nothing, and need not be told where.
  if (verb.out.empty() && !verb.dry_run) fail_usage("--out is missing: the directory of the trained model");
  const fs::path out = verb.out;
  const fs::path work = verb.resume.empty() && !verb.dry_run ? beside(out, ".run") : fs::path(verb.resume);
  if (!unfinished) {
    if (speaks) fmt::print(stderr, "{}: the run has ended; {} is its model\n", work.string(), out.string());
    return;
  }
  const bool resume = !verb.resume.empty();
  // What lies in the place of a run's model when it goes on is its own, or was allowed to be replaced.
  if (!verb.dry_run) check_save_target(out, verb.overwrite || resume);  // before hours of work

  Checkpoint student = load_checkpoint(verb.model);
  if (speaks) note_lost_exits(student);
  const Tokenizer tokenizer = load_tokenizer(verb.model);
  std::optional<Checkpoint> teacher;
  if (verb.teacher == "self") {
    teacher = student;
  } else if (!verb.teacher.empty()) {
    teacher = loaded_teacher(verb, student, tokenizer);
  }
  if (!tokenizer.eos()) {
    fail(
        "{}: the tokenizer names no end-of-text token, which training puts between documents: name one as "
        "eos_token in tokenizer_config.json",
        verb.model);
  }
  const TrainOptions options = training_options(verb, student, teacher ? &*teacher : nullptr, tokenizer);
  TrainInputs inputs{.student = student, .teacher = teacher ? &*teacher : nullptr, .text = {}};
  inputs.held_out = held_out_text(verb, student, tokenizer);
  check_inputs(inputs, options);
  if (verb.dry_run) {
    if (!speaks) return;
    inputs.text = some_text(verb, student, tokenizer, options);
    return report(verb, options, estimate_training(inputs, options));
  }
  if (!verb.prompts.empty()) {
    inputs.sample = [&](const Checkpoint& model) { return continued(verb, tokenizer, model); };
  }
  const Ranks ranks(launch, verb.rank_timeout);
  const auto lock = ranks.is_first() ? locked(work) : nullptr;
  if (lock && resume && has_ended(work)) fail("{}: the run has ended while this one began", work.string());
  TrainResult result;
  try {
    result = train_together(app, verb, inputs, tokenizer, options, work, ranks);
  } catch (const RankLost& lost) {
    fail("{}. Start all ranks with --resume {} to go on from the last checkpoint; any number of them will do",
         lost.what(), work.string());
  }
  if (!speaks && !result.interrupted) return;
  if (result.interrupted) {
    if (speaks)
      fmt::print(stderr, "Stopped after {} steps. fathom train --resume {} goes on.\n", result.steps.size(),
                 work.string());
    throw Interrupted();
  }
  if (!result.model.provenance.is_array()) result.model.provenance = Json::array();
  result.model.provenance.push_back(
      {{"command", "train"}, {"from", verb.model}, {"measurements", to_json(options)}});
  save_checkpoint(result.model, out, verb.overwrite || resume);
  RunFolder::finish(work);
  report(verb, options, result);
}

}  // namespace

void add_train(CLI::App& program) {
  auto verb = std::make_shared<TrainVerb>();
  CLI::App* app = program.add_subcommand("train", "Trains a model, or trains it back after a cut");
  add_train_options(*app, *verb);
  app->footer(
      "Example: fathom train pruned --teacher smollm2.gguf --text wiki.txt --tokens 80000 --out healed");
  app->callback([app, verb] { run(*app, *verb); });
}

}  // namespace fathom
