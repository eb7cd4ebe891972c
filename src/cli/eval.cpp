#include <algorithm>
#include <cstdio>
#include <filesystem>
#include <memory>
#include <optional>
#include <span>
#include <vector>

#include "base/error.h"
#include "base/file.h"
#include "cli/about.h"
#include "cli/decoding.h"
#include "cli/verbs.h"
#include "eval/divergence.h"
#include "eval/exits.h"
#include "eval/speed.h"
#include "eval/tasks.h"
#include "formats/documents.h"
#include "measure/perplexity.h"
#include "model/checkpoint.h"
#include "runtime/engine.h"
#include "text/tokenizer.h"

namespace fathom {
namespace {

struct Options : CommonOptions {
  std::filesystem::path model, text, data;
  std::vector<std::string> tasks;
  std::int64_t context = 512, windows = 0, limit = 0;
  std::string text_format = "auto", dtype = "f32", kv = "auto", against, samples;
  bool speed = false, trace = false;
  DecodingOptions decoding;
  double agreement = 0;  // 0: the threshold is given
};

void check(const Options& options) {
  if (options.text.empty() && options.tasks.empty() && !options.speed)
    fail_usage("nothing to measure: give --text, --tasks or --speed");
  if (!options.tasks.empty() && options.data.empty())
    fail_usage("--tasks needs --data, the directory with the sets (hellaswag.jsonl, ...)");
  if (!options.against.empty() && options.text.empty())
    fail_usage("--against needs --text, on which the two types are compared");
  const bool exits = !options.decoding.exit.empty();
  if (exits && options.text.empty()) fail_usage("--exit needs --text, which is read token by token");
  if (options.decoding.exited_kv == exited_kv_names[static_cast<std::size_t>(ExitedKv::single)] &&
      !options.tasks.empty())
    fail_usage("--exited-kv single is not for --tasks: their contexts keep what earlier ones began with");
  if (options.agreement > 0 && !exits)
    fail_usage("--calibrate-exit needs --exit RULE, whose threshold it finds");
  const auto names = task_names();
  for (const auto& task : options.tasks) {
    if (std::ranges::find(names, task) == names.end())
      fail_usage("there is no task \"{}\"; there are {}", task, fmt::join(names, ", "));
  }
}

std::string samples_as_lines(const TaskResult& result) {
  std::string lines;
  for (const Sample& sample : result.samples) {
    const Json line = {{"task", result.task},
                       {"gold", sample.gold},
                       {"predicted", sample.predicted},
                       {"correct", sample.correct},
                       {"log_likelihoods", sample.log_likelihoods}};
    lines += line.dump() + "\n";
  }
  return lines;
}

/// The text again, token by token.
Json measure_exits(Engine& engine, const Checkpoint& checkpoint, std::span<const Token> ids, Token bos,
                   const Options& options) {
  DecodingOptions decoding = options.decoding;
  if (options.agreement > 0) {
    const std::string rule = decoding.exit.substr(0, decoding.exit.find(':'));
    const DecoderOptions asked = decoder_options(decoding, checkpoint.plan);
    decoding.exit = fmt::format("{}:{:.4g}", rule,
                                calibrate_exit(engine, ids, options.context, bos, options.windows, rule,
                                               asked.exited_kv, options.agreement));
  }
  const ExitQuality quality = exit_quality(engine, ids, options.context, bos, options.windows,
                                           decoder_options(decoding, checkpoint.plan));
  return {{"rule", decoding.exit},
          {"exited_kv", decoding.exited_kv},
          {"perplexity", quality.perplexity.perplexity()},
          {"perplexity_stderr", quality.perplexity.perplexity_error()},
          {"visits", quality.visits},
          {"depth", checkpoint.plan.depth()},
          {"agreement", quality.agreement}};
}

Json measure_text(Engine& engine, const Checkpoint& checkpoint, const Tokenizer& tokenizer,
                  const Options& options) {
  const auto ids = tokenizer.encode(read_text(options.text, text_format(options.text_format)), false);
  const Token bos = tokenizer.bos().value_or(-1);
  const Perplexity result =
      about(options.text, [&] { return perplexity(engine, ids, options.context, bos, options.windows); });
  Json figures = {{"text", options.text.string()},
                  {"context", options.context},
                  {"tokens", result.tokens},
                  {"nll", result.nll},
                  {"nll_stderr", result.error},
                  {"perplexity", result.perplexity()},
                  {"perplexity_stderr", result.perplexity_error()}};
  if (!options.decoding.exit.empty())
    figures["exits"] =
        about(options.text, [&] { return measure_exits(engine, checkpoint, ids, bos, options); });
  if (!options.against.empty()) {
    Engine reference(checkpoint,
                     {.compute = choose_compute(options.against, checkpoint), .cache = user_cache()});
    figures["divergence"] = to_json(about(options.text, [&] {
      return divergence(engine, reference, ids, options.context, bos, options.windows);
    }));
    figures["divergence"]["against"] = options.against;
  }
  return figures;
}

Json measure_tasks(Engine& engine, const Tokenizer& tokenizer, const Options& options) {
  Json tasks = Json::object();
  std::string samples;
  for (const auto& name : options.tasks) {
    const TaskResult result = about(
        options.data / name, [&] { return run_task(engine, tokenizer, name, options.data, options.limit); });
    tasks[name] = to_json(result);
    samples += samples_as_lines(result);
  }
  if (!options.samples.empty()) write_file(options.samples, samples);
  return tasks;
}

void print_figures(std::FILE* where, const Json& figures) {
  if (figures.contains("perplexity")) {
    fmt::print(where, "perplexity  {:.4f} ± {:.4f}   nll {:.5f} over {} tokens\n",
               figures["perplexity"].get<double>(), figures["perplexity_stderr"].get<double>(),
               figures["nll"].get<double>(), figures["tokens"].get<std::int64_t>());
  }
  if (figures.contains("exits")) {
    const Json& exits = figures["exits"];
    fmt::print(
        where,
        "with exits  {:.4f} ± {:.4f}   {:.1f} of {} visits a token, {:.2f} % as at full depth ({}, {})\n",
        exits["perplexity"].get<double>(), exits["perplexity_stderr"].get<double>(),
        exits["visits"].get<double>(), exits["depth"].get<std::int64_t>(),
        100 * exits["agreement"].get<double>(), exits["rule"].get<std::string>(),
        exits["exited_kv"].get<std::string>());
  }
  if (figures.contains("divergence")) {
    const Json& divergence = figures["divergence"];
    fmt::print(where, "divergence  {:.6f} nats a token from {}, the same most probable token in {:.2f} %\n",
               divergence["kl"].get<double>(), divergence["against"].get<std::string>(),
               100 * divergence["same_top"].get<double>());
  }
  if (figures.contains("tasks")) {
    fmt::print(where, "{:<16}{:>9}{:>9}{:>9}{:>10}{:>11}{:>12}\n", "task", "examples", "acc", "stderr",
               "acc_norm", "acc_bytes", "perplexity");
    for (const auto& [name, task] : figures["tasks"].items()) {
      fmt::print(where, "{:<16}{:>9}{:>9.4f}{:>9.4f}{:>10.4f}{:>11.4f}{:>12}\n", name,
                 task["examples"].get<std::int64_t>(), task["acc"].get<double>(),
                 task["acc_stderr"].get<double>(), task["acc_norm"].get<double>(),
                 task["acc_bytes"].get<double>(),
                 task.contains("perplexity") ? fmt::format("{:.3f}", task["perplexity"].get<double>()) : "");
    }
  }
  if (figures.contains("speed")) {
    const Json& speed = figures["speed"];
    fmt::print(where, "speed       {:.1f} tokens/s of a prompt of {}, {:.1f} tokens/s generating {}\n",
               speed["prompt"].get<double>(), speed["prompt_tokens"].get<std::int64_t>(),
               speed["generate"].get<double>(), speed["generated_tokens"].get<std::int64_t>());
  }
}

void evaluate(const Options& options) {
  check(options);
  const Checkpoint checkpoint = load_checkpoint(options.model);
  const DecoderOptions decoder = decoder_options(options.decoding, checkpoint.plan);
  std::optional<Tokenizer> tokenizer;
  if (!options.text.empty() || !options.tasks.empty()) tokenizer = load_tokenizer(options.model);
  Engine engine(checkpoint, {.compute = choose_compute(options.dtype, checkpoint),
                             .kv = choose_kv(options.kv),
                             .single_slot = decoder.exited_kv == ExitedKv::single,
                             .trace = options.trace,
                             .cache = user_cache()});

  Json figures = {{"model", options.model.string()}, {"dtype", options.dtype}, {"kv", options.kv}};
  if (!options.text.empty()) figures.update(measure_text(engine, checkpoint, *tokenizer, options));
  if (!options.tasks.empty()) figures["tasks"] = measure_tasks(engine, *tokenizer, options);
  if (options.speed) figures["speed"] = to_json(measure_speed(engine));
  print_figures(options.json == "-" ? stderr : stdout, figures);
  emit_json(options, figures);
}

}  // namespace

void add_eval(CLI::App& program) {
  auto options = std::make_shared<Options>();
  CLI::App* verb = program.add_subcommand("eval", "Perplexity of a text, accuracy on tasks, speed");
  verb->add_option("MODEL", options->model, "Directory (Hugging Face, Fathom) or GGUF file")->required();
  verb->add_option("--text", options->text, "Perplexity of this text (plain or JSON, .zst of either)")
      ->type_name("FILE");
  add_text_format(*verb, options->text_format);
  verb->add_option("--context", options->context, "Tokens in a window; windows do not overlap")
      ->capture_default_str();
  verb->add_option("--windows", options->windows, "Only the first so many windows; 0 = all")
      ->check(at_least(0))
      ->capture_default_str();
  verb->add_option("--tasks", options->tasks,
                   fmt::format("Comma-separated: {}", fmt::join(task_names(), ", ")))
      ->delimiter(',')
      ->type_name("NAMES");
  verb->add_option("--data", options->data, "Directory of the tasks' files, NAME.jsonl")->type_name("DIR");
  verb->add_option("--limit", options->limit, "Only the first so many examples of a task; 0 = all")
      ->check(at_least(0))
      ->capture_default_str();
  verb->add_option("--samples", options->samples, "Write each example's log-likelihoods as JSON lines")
      ->type_name("FILE");
  add_dtype(*verb, options->dtype);
  add_kv(*verb, options->kv);
  verb->add_option("--against", options->against,
                   "Also how far predictions of --text are from the same model's in this type (with --kv "
                   "auto): mean KL "
                   "divergence, and how often the most probable token is the same")
      ->check(is_dtype())
      ->type_name("DTYPE");
  add_exit_options(*verb, options->decoding);
  verb->add_option(
          "--calibrate-exit", options->agreement,
          "Find the threshold of --exit RULE at which this part of the tokens agrees with full depth")
      ->check(CLI::Range(0.0, 1.0).description(""))
      ->type_name("PART");
  verb->add_flag("--trace", options->trace,
                 "A line about each operation on standard error: shape, time, rates");
  verb->add_flag("--speed", options->speed, "Tokens per second of both phases: a prompt, and generation");
  add_common(*verb, *options, true);
  verb->footer(
      "Tasks are scored as lm-evaluation-harness does: acc_norm divides a choice's log-likelihood by its\n"
      "characters, acc_bytes by its bytes. What a tokenizer puts behind a text (an end token) is no part of "
      "a\n"
      "context or a choice.\n\n"
      "Example:\n  fathom eval models/smollm2.gguf --text wiki.txt --tasks hellaswag,piqa --data eval\n"
      "  fathom eval models/smollm2.gguf --text wiki.txt --dtype int8 --against bf16\n"
      "  fathom eval models/smollm2.gguf --text wiki.txt --dtype bf16 --kv int8 --against bf16\n"
      "  fathom eval out --text wiki.txt --windows 16 --exit margin --calibrate-exit 0.99 --exited-kv copy\n"
      "  fathom eval out --text wiki.txt --windows 16 --exit oracle   (the bound of all rules; here alone)");
  verb->callback([options] {
    apply_common(*options);
    evaluate(*options);
  });
}

}  // namespace fathom
