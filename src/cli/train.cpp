#include "train/train.h"

#include <algorithm>
#include <cstdio>
#include <map>
#include <memory>
#include <optional>

#include "base/error.h"
#include "base/interrupt.h"
#include "base/progress.h"
#include "cli/verbs.h"
#include "formats/documents.h"
#include "runtime/engine.h"
#include "runtime/self_corpus.h"
#include "train/run_folder.h"

namespace fathom {
namespace {

// A run of so many minutes reads at most so much text, about a hundred times what two cores train on.
constexpr double read_per_minute = 5e6;

struct TrainVerb {
  CommonOptions common;
  std::string model, teacher, field = "text", trainable = "all";
  std::vector<std::string> text, targets = {"gate", "up", "down"};
  std::string out;
  std::int64_t samples = 100'000;
  std::optional<std::int64_t> tokens;
  std::optional<double> ce, distil;
  bool no_bf16 = false, keep_adapters = false, resume = false, overwrite = false;
  TrainOptions training;
};

const std::map<std::string, Trainable> trainables = {
    {"all", Trainable::all}, {"adapters", Trainable::adapters}, {"lora", Trainable::lora}};
const std::map<std::string, Linear> linears = {
    {"q", Linear::q},       {"k", Linear::k},   {"v", Linear::v},      {"o", Linear::o},
    {"gate", Linear::gate}, {"up", Linear::up}, {"down", Linear::down}};

TrainOptions training_options(const TrainVerb& verb, const Tokenizer& tokenizer) {
  TrainOptions options = verb.training;
  options.trainable = trainables.at(verb.trainable);
  options.lora_targets.clear();
  for (const std::string& target : verb.targets) options.lora_targets.push_back(linears.at(target));
  options.merge = !verb.keep_adapters;
  options.bf16 = !verb.no_bf16;
  options.seed = verb.common.seed;
  options.bos = tokenizer.bos().value_or(-1);
  // The teacher's distribution says more about a token than the token does (and all that its own samples can
  // say).
  options.distil_weight = verb.distil.value_or(verb.teacher.empty() ? 0 : 1);
  options.ce_weight = verb.ce.value_or(verb.teacher.empty() ? 1 : 0);
  // A limit of time alone is one of time alone.
  const bool timed = options.max_minutes > 0;
  options.tokens = verb.tokens.value_or(timed ? std::int64_t{1} << 40 : options.tokens);
  return options;
}

std::vector<std::vector<Token>> read_text(const TrainVerb& verb, const Tokenizer& tokenizer,
                                          const TrainOptions& options) {
  const double in_time = options.max_minutes > 0 ? options.max_minutes * read_per_minute : 1e15;
  const auto most = std::min(options.tokens, static_cast<std::int64_t>(in_time));
  std::vector<std::vector<Token>> documents;
  std::int64_t tokens = 0;
  Progress progress("reading", 0, "tok");
  for_each_document({verb.text.begin(), verb.text.end()}, verb.field, [&](std::string&& text) {
    check_interrupt();
    documents.push_back(tokenizer.encode(text, false));
    const auto count = static_cast<std::int64_t>(documents.back().size());
    tokens += count;
    progress.advance(count);
    return tokens < most;  // no more than the run can read
  });
  if (tokens == 0) fail("{}: no text in it to train on", verb.text.front());
  return documents;
}

std::vector<std::vector<Token>> sample_text(const TrainVerb& verb, const Checkpoint& author,
                                            const Tokenizer& tokenizer, const TrainOptions& options,
                                            const std::filesystem::path& work) {
  Engine engine(author, {.compute = float_compute(author)});
  const SelfCorpusOptions corpus{
      .tokens = std::min(options.tokens, verb.samples), .length = options.context, .seed = options.seed};
  std::filesystem::create_directories(work);
  return kept_self_corpus(engine, tokenizer, corpus, work / "samples.jsonl");
}

void report(const TrainVerb& verb, const TrainOptions& options, const TrainResult& result) {
  double seconds = 0;
  for (const TrainStep& step : result.steps) seconds += step.seconds;
  const TrainStep first = result.steps.empty() ? TrainStep{} : result.steps.front();
  const TrainStep last = result.steps.empty() ? TrainStep{} : result.steps.back();
  const double rate = seconds > 0 ? static_cast<double>(last.tokens) / seconds : 0;
  std::FILE* where = verb.common.json == "-" ? stderr : stdout;
  fmt::print(where, "{} steps, {} tokens, loss {:.4f} -> {:.4f}, {:.0f} tokens/s\n", last.step, last.tokens,
             first.loss, last.loss, rate);
  emit_json(verb.common, {{"model", verb.out},
                          {"steps", last.step},
                          {"tokens", last.tokens},
                          {"first_loss", first.loss},
                          {"last_loss", last.loss},
                          {"seconds", seconds},
                          {"tokens_per_second", rate},
                          {"options", to_json(options)}});
}

void run(const TrainVerb& verb) {
  apply_common(verb.common);
  const std::filesystem::path out = verb.out, work = beside(out, ".run");
  check_save_target(out, verb.overwrite);  // before hours of work
  const auto checkpoints = work / "checkpoints";
  if (!verb.overwrite && !verb.resume && std::filesystem::exists(checkpoints) &&
      !std::filesystem::is_empty(checkpoints)) {
    fail("{}: holds a run that was not finished: go on with --resume, or start anew with --overwrite",
         work.string());
  }
  Checkpoint student = load_checkpoint(verb.model);
  std::optional<Checkpoint> teacher;
  if (verb.teacher == "self") {
    teacher = student;
  } else if (!verb.teacher.empty()) {
    teacher = load_checkpoint(verb.teacher);
  }
  const Tokenizer tokenizer = load_tokenizer(verb.model);
  if (!tokenizer.eos()) {
    fail("{}: the tokenizer names no end-of-text token, which training puts between documents", verb.model);
  }
  const TrainOptions options = training_options(verb, tokenizer);
  const auto documents = verb.text.empty()
                             ? sample_text(verb, teacher ? *teacher : student, tokenizer, options, work)
                             : read_text(verb, tokenizer, options);
  TrainResult result =
      train(student, teacher ? &*teacher : nullptr, documents, *tokenizer.eos(), options, work, verb.resume);
  if (result.interrupted) {
    fmt::print(stderr, "Stopped after {} steps. The same command with --resume goes on.\n",
               result.steps.size());
    throw Interrupted();
  }
  if (!result.model.provenance.is_array()) result.model.provenance = Json::array();
  result.model.provenance.push_back(
      {{"command", "train"}, {"from", verb.model}, {"measurements", to_json(options)}});
  save_checkpoint(result.model, out, verb.overwrite);
  std::filesystem::remove_all(checkpoints);  // gigabytes that nobody needs once the model is there
  report(verb, options, result);
}

void add_training_options(CLI::App& app, TrainVerb& verb) {
  TrainOptions& training = verb.training;
  app.add_option("--tokens", verb.tokens, "Length of the run [100000; with --minutes: no limit]");
  app.add_option("--minutes", training.max_minutes, "End by then: the schedule is fitted to the speed");
  app.add_option("--batch-tokens", training.tokens_per_step, "Tokens a step")->capture_default_str();
  app.add_option("--context", training.context, "Tokens a sequence")->capture_default_str();
  app.add_option("--micro-batch", training.micro_batch, "Sequences at a time")->capture_default_str();
  app.add_option("--lr", training.learning_rate, "Learning rate (AdamW, cosine)")->capture_default_str();
  app.add_option("--min-lr", training.min_learning_rate, "Where the cosine ends")->capture_default_str();
  app.add_option("--warmup", training.warmup, "Share of the steps")->capture_default_str();
  app.add_option("--clip", training.clip, "Gradient norm; 0: none")->capture_default_str();
  app.add_option("--weight-decay", training.weight_decay, "On matrices")->capture_default_str();
  app.add_flag("--no-bf16", verb.no_bf16, "Compute in float32");
  app.add_option("--checkpoint-every", training.checkpoint_every, "Steps; 0: when interrupted")
      ->capture_default_str();
}

}  // namespace

void add_train(CLI::App& program) {
  auto verb = std::make_shared<TrainVerb>();
  CLI::App* app = program.add_subcommand("train", "Trains a model, or trains it back after a cut");
  app->add_option("MODEL", verb->model, "Model directory or GGUF file")->required();
  app->add_option("--out", verb->out, "Directory of the trained model; OUT.run holds metrics, checkpoints")
      ->required()
      ->type_name("DIR");
  app->add_option("--text", verb->text,
                  "Text, .jsonl, either .zst; without it, samples of the teacher (kept in OUT.run)")
      ->type_name("FILE...");
  app->add_option("--field", verb->field, "Of JSON lines")->capture_default_str();
  app->add_option("--samples", verb->samples, "Tokens to sample without --text")->capture_default_str();
  app->add_option("--teacher", verb->teacher, "Model to distil from, or 'self'")->type_name("MODEL");
  app->add_option("--distil", verb->distil, "Weight of KL(teacher || model) [1 with a teacher]");
  app->add_option("--ce", verb->ce, "Weight of cross-entropy [1 without a teacher, else 0]");
  app->add_option("--temperature", verb->training.temperature, "Of the distillation")->capture_default_str();
  app->add_option("--train", verb->trainable, "Which weights change")
      ->check(CLI::IsMember(trainables))
      ->capture_default_str();
  app->add_option("--lora-rank", verb->training.lora_rank, "Of LoRA; clipped to each matrix")
      ->capture_default_str();
  app->add_option("--lora-alpha", verb->training.lora_alpha, "LoRA is scaled by alpha / rank")
      ->capture_default_str();
  app->add_option("--lora-targets", verb->targets, "Matrices that get LoRA")
      ->delimiter(',')
      ->check(CLI::IsMember(linears))
      ->capture_default_str();
  app->add_flag("--keep-adapters", verb->keep_adapters, "Do not merge LoRA into the matrices");
  add_training_options(*app, *verb);
  app->add_flag("--resume", verb->resume, "Go on with an interrupted run");
  app->add_flag("--overwrite", verb->overwrite, "Replace what --out and OUT.run hold");
  add_common(*app, verb->common, true);
  app->footer(
      "Example: fathom train pruned --teacher smollm2.gguf --text wiki.txt --tokens 80000 --out healed");
  app->callback([verb] { run(*verb); });
}

}  // namespace fathom
