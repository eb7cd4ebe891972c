#include "cli/train_options.h"

#include "base/error.h"
#include "cli/train_presets.h"
#include "train/model/hidden_pairs.h"
#include "train/run/options.h"

namespace fathom {
namespace {

const Names<Linear> linears = {{"q", Linear::q},      {"k", Linear::k},       {"v", Linear::v},
                               {"o", Linear::o},      {"gate", Linear::gate}, {"up", Linear::up},
                               {"down", Linear::down}};

void add_data(CLI::App& app, TrainVerb& verb) {
  app.add_option("--text", verb.text, "Text, JSON (chats too), .zst; directories, patterns [own samples]")
      ->type_name("FILE...");
  app.add_option("--mix", verb.mix,
                 "A weight for each --text: its share of the tokens [all text once an epoch]")
      ->delimiter(',');
  app.add_option("--field", verb.field, "Of JSON [text, or else messages]");
  add_text_format(app, verb.text_format);
  app.add_flag("--within-documents", verb.training.within_documents,
               "Attention does not see the documents before, within a sequence");
  app.add_option("--samples", verb.samples, "Tokens to sample without --text")->capture_default_str();
  app.add_option("--eval-text", verb.held_out,
                 "Held-out text: measured, and the best model kept in OUT.run/best")
      ->type_name("FILE...");
  app.add_option("--eval-tokens", verb.held_out_tokens, "How much of it is read")
      ->check(at_least(1))
      ->capture_default_str();
  app.add_option("--eval-every", verb.training.evaluate_every, "Steps; 0: at the end")->capture_default_str();
  app.add_option("--prompt", verb.prompts, "Continued at each evaluation")->type_name("TEXT...");
  app.add_option("--prompt-tokens", verb.prompt_tokens, "How far")->check(at_least(1))->capture_default_str();
}

void add_model(CLI::App& app, TrainVerb& verb) {
  app.add_option("--teacher", verb.teacher, "Model to distil from, or 'self'")->type_name("MODEL");
  app.add_option("--distil", verb.distil, "Weight of the divergence from the teacher [1 with a teacher]");
  app.add_option("--divergence", verb.divergence,
                 "forward-kl: learn all that the teacher finds likely; reverse-kl: what it does")
      ->check(CLI::IsMember(divergences))
      ->capture_default_str();
  app.add_option("--ce", verb.ce, "Weight of cross-entropy [1 without a teacher, else 0]");
  app.add_option("--temperature", verb.training.loss.temperature, "Of the distillation")
      ->capture_default_str();
  app.add_option("--train", verb.trainable, "Which weights change")
      ->check(CLI::IsMember(trainables))
      ->capture_default_str();
}

void add_teacher_cache(CLI::App& app, TrainVerb& verb) {
  app.option_defaults()->group("More of the teacher");
  app.add_flag("--teacher-anyway", verb.teacher_anyway,
               "Even a teacher whose tokenizer is another: its answers are read as the student's tokens");
  app.add_option("--teacher-cache", verb.training.teacher_cache.folder,
                 "Keep the teacher's likeliest tokens here, for later epochs and runs on the same text")
      ->type_name("DIR");
  app.add_option("--teacher-top-k", verb.training.teacher_cache.top_k,
                 "How many of them; all others count as one")
      ->capture_default_str();
}

void add_low_rank(CLI::App& app, TrainVerb& verb) {
  app.option_defaults()->group("LoRA and QLoRA");
  app.add_option(
         "--preset", verb.preset,
         "Healing as published for a family: QLoRA, its rate, rank and length; other options go before")
      ->check(CLI::IsMember(train_presets()));
  app.add_option("--base", verb.base,
                 "How weights that do not change are held: in full, or in 4 bits (nf4: QLoRA)")
      ->check(CLI::IsMember(frozen_types))
      ->capture_default_str();
  app.add_option("--lora-rank", verb.training.lora.rank, "Of LoRA; clipped to each matrix")
      ->capture_default_str();
  app.add_option("--lora-alpha", verb.training.lora.alpha, "LoRA is scaled by alpha / rank")
      ->capture_default_str();
  app.add_option("--lora-targets", verb.targets, "Matrices that get LoRA")
      ->delimiter(',')
      ->check(CLI::IsMember(linears))
      ->capture_default_str();
  app.add_flag("--keep-adapters", verb.keep_adapters, "Do not merge LoRA into the matrices");
}

void add_depth(CLI::App& app, TrainVerb& verb) {
  app.option_defaults()->group("Early exits, layer dropout, hidden states");
  TrainOptions& training = verb.training;
  app.add_option(
      "--exits", verb.exits,
      "Teach the head to read the hidden state after other visits too, so that the model may stop "
      "there: 'loops' (the end of each loop), 'all', 'plan' (where the model has exits), or visits "
      "from 0 such as 7,15-17");
  app.add_option("--exit-weights", verb.exit_weighting,
                 "What an exit's loss counts. aggressive: --exit-alpha, beside 1 for the last visit, which "
                 "loses least; weighted: i / sum i for the ith; layerskip: by depth, for --exits all")
      ->check(CLI::IsMember(exit_weightings))
      ->capture_default_str();
  app.add_option("--exit-alpha", training.exits.alpha, "Of aggressive exits")->capture_default_str();
  app.add_option("--exit-scale", training.exits.scale,
                 "Of layerskip (e_scale): more of it, more accurate early exits and a worse last visit")
      ->capture_default_str();
  app.add_option("--exit-curriculum", verb.exit_curriculum,
                 "all: every exit at each step; rotational: every --exit-rotation'th visit, in turn, which "
                 "costs less; gradual: from the last down, all by half of the run")
      ->check(CLI::IsMember(exit_curricula))
      ->capture_default_str();
  app.add_option("--exit-rotation", training.exits.rotation, "Of rotational: R")->capture_default_str();
  app.add_option("--exit-ce", training.exits.cross_entropy,
                 "Weight, within an exit's loss, of cross-entropy with the text")
      ->capture_default_str();
  app.add_option("--exit-distil", verb.exit_distil,
                 "Of the --divergence from what the last visit says, which is not moved by it [1; layerskip: "
                 "0]");
  app.add_option("--layer-dropout", training.layer_dropout.rate,
                 "How often a sequence leaves out the last visit; earlier ones less often, the first never")
      ->capture_default_str();
  app.add_option("--layer-dropout-schedule", verb.layer_dropout_schedule,
                 "constant, for a model that was trained, or exponential: grows from 0, for one from scratch")
      ->check(CLI::IsMember({"constant", "exponential"}))
      ->capture_default_str();
  app.add_option("--hidden", training.hidden.weight,
                 "Weight of the mean square difference from the teacher's hidden states")
      ->capture_default_str();
  app.add_option("--hidden-at", verb.hidden_at,
                 "After which visits, STUDENT:TEACHER such as 11:15; auto: at the seams that prune left, or "
                 "everywhere in a model as deep as its teacher")
      ->capture_default_str();
}

void add_steps(CLI::App& app, TrainVerb& verb) {
  TrainOptions& training = verb.training;
  app.add_option("--tokens", verb.tokens, "Length of the run [100000; with --minutes: no limit]");
  app.add_option("--minutes", training.max_minutes, "End by then: the schedule is fitted to the speed");
  app.add_option("--batch-tokens", training.tokens_per_step, "Tokens a step")->capture_default_str();
  app.add_option("--context", training.context, "Tokens a sequence")
      ->check(at_least(2))
      ->capture_default_str();
  app.add_option("--micro-batch", training.micro_batch, "Sequences at a time")->capture_default_str();
  app.add_flag("--gradient-checkpointing", training.gradient_checkpointing,
               "Less memory: layers are computed again in the way back, the results are the same");
  app.add_option("--device", verb.device,
                 "cpu: own kernels; cuda, torch: torch's, on GPU, CPU; auto: a GPU if there")
      ->check(CLI::IsMember(devices))
      ->capture_default_str();
  app.add_option("--lr", training.optimiser.learning_rate, "Learning rate (AdamW, cosine)")
      ->capture_default_str();
}

void add_checkpoints(CLI::App& app, TrainVerb& verb) {
  TrainOptions& training = verb.training;
  app.option_defaults()->group("Checkpoints");
  app.add_option("--checkpoint-every", training.checkpoint_every,
                 "Steps between two checkpoints; 0: by the clock")
      ->capture_default_str();
  training.checkpoint_minutes = 30;  // whoever has not thought of them is not to lose a night
  app.add_option("--checkpoint-minutes", training.checkpoint_minutes,
                 "Minutes between two; 0: only as above, and when interrupted")
      ->capture_default_str();
}

void add_optimiser(CLI::App& app, TrainVerb& verb) {
  TrainOptions& training = verb.training;
  app.option_defaults()->group("Optimiser");
  app.add_option("--min-lr", training.optimiser.min_learning_rate, "Where the cosine ends")
      ->capture_default_str();
  app.add_option("--warmup", training.optimiser.warmup, "Share of the steps")->capture_default_str();
  app.add_option("--clip", training.optimiser.clip, "Gradient norm; 0: none")->capture_default_str();
  app.add_option("--weight-decay", training.optimiser.weight_decay, "On matrices")->capture_default_str();
  app.add_flag("--no-bf16", verb.no_bf16, "Compute in float32");
}

void add_guard(CLI::App& app, TrainVerb& verb) {
  TrainOptions& training = verb.training;
  app.option_defaults()->group("Bad steps");
  app.add_option("--on-nan", verb.on_nan, "When a loss or gradient is no number: skip the step, or stop")
      ->check(CLI::IsMember({"skip", "stop"}))
      ->capture_default_str();
  app.add_option("--on-spike", verb.on_spike,
                 "When the loss jumps up: note it and go on, skip the step, or stop")
      ->check(CLI::IsMember(bad_steps))
      ->capture_default_str();
  app.add_option("--spike", training.guard.spike_deviations,
                 "Standard deviations above the mean that are a jump; 0: none is")
      ->capture_default_str();
}

void add_ranks(CLI::App& app, TrainVerb& verb) {
  app.option_defaults()->group("Several processes");
  app.add_flag("--shard-optimiser", verb.training.shard_optimiser,
               "Several processes share out the optimiser's moments (ZeRO 1)");
  app.add_option("--rank-timeout", verb.rank_timeout,
                 "A process is lost after so many seconds without a sign of life")
      ->check(CLI::Range(0.5, 86'400.0).description(""))
      ->capture_default_str();
}

}  // namespace

void add_train_options(CLI::App& app, TrainVerb& verb) {
  // Neither is `required` to the library: a file may name them.
  app.add_option("MODEL", verb.model, "Model directory or GGUF file");
  app.add_option("--out", verb.out, "Directory of the trained model; OUT.run holds metrics, checkpoints")
      ->type_name("DIR");
  add_data(app, verb);
  add_model(app, verb);
  add_steps(app, verb);
  const std::string plain = app.option_defaults()->get_group();
  for (const auto& add :
       {add_teacher_cache, add_low_rank, add_depth, add_checkpoints, add_optimiser, add_guard, add_ranks})
    add(app, verb);
  app.option_defaults()->group(plain);
  app.set_help_all_flag("--help-all", "Explain all options");
  app.add_option("--config", verb.config, "Options from a TOML file; the command line goes before it")
      ->type_name("FILE")
      ->configurable(false);
  app.add_flag("--print-config", verb.print_config, "Print such a file with all options, and end")
      ->configurable(false);
  app.add_flag("--dry-run", verb.dry_run, "Check everything and estimate memory and time")
      ->configurable(false);
  app.add_option("--show-mask", verb.show_mask,
                 "Show what is learned of the first N texts or conversations, and end")
      ->check(at_least(1))
      ->type_name("N")
      ->configurable(false);
  app.add_option("--resume", verb.resume, "Go on with the run in this folder (OUT.run)")
      ->type_name("DIR")
      ->configurable(false);
  app.add_flag("--overwrite", verb.overwrite, "Replace what --out and OUT.run hold")->configurable(false);
  add_common(app, verb.common, true);
  for (const char* once : {"--json", "--quiet"}) app.get_option(once)->configurable(false);
}

TrainOptions training_options(const TrainVerb& verb, const Checkpoint& student, const Checkpoint* teacher,
                              const Tokenizer& tokenizer) {
  TrainOptions options = verb.training;
  options.trainable = trainables.at(verb.trainable);
  options.frozen = frozen_types.at(verb.base);
  options.device = devices.at(verb.device);
  options.loss.kind = divergences.at(verb.divergence);
  if (!verb.exits.empty()) options.exits.visits = parse_exits(verb.exits, student.plan);
  options.exits.weighting = exit_weightings.at(verb.exit_weighting);
  options.exits.curriculum = exit_curricula.at(verb.exit_curriculum);
  options.exits.divergence =
      verb.exit_distil.value_or(options.exits.weighting == ExitWeighting::layerskip ? 0 : 1);
  options.layer_dropout.grows = verb.layer_dropout_schedule == "exponential";
  if (options.hidden.weight > 0) {
    if (teacher == nullptr) fail_usage("--hidden needs the hidden states of a --teacher");
    options.hidden.pairs = parse_hidden_pairs(verb.hidden_at, student, *teacher);
  }
  options.lora.targets.clear();
  for (const std::string& target : verb.targets) options.lora.targets.push_back(linears.at(target));
  options.lora.merge = !verb.keep_adapters;
  options.bf16 = !verb.no_bf16;
  options.guard.on_nan = bad_steps.at(verb.on_nan);
  options.guard.on_spike = bad_steps.at(verb.on_spike);
  options.seed = verb.common.seed;
  options.bos = tokenizer.bos().value_or(-1);
  // The teacher's distribution says more about a token than the token does (and all that its own samples can
  // say).
  options.loss.divergence = verb.distil.value_or(verb.teacher.empty() ? 0 : 1);
  options.loss.cross_entropy = verb.ce.value_or(verb.teacher.empty() ? 1 : 0);
  // A limit of time alone is one of time alone.
  const bool timed = options.max_minutes > 0;
  options.tokens = verb.tokens.value_or(timed ? std::int64_t{1} << 40 : options.tokens);
  return options;
}

}  // namespace fathom
