#include "cli/generation.h"

#include <algorithm>
#include <cstdio>
#include <iterator>

#include "base/error.h"
#include "base/progress.h"
#include "cli/about.h"
#include "cli/verbs.h"

namespace fathom {
namespace {

double rate(std::int64_t tokens, double seconds) {
  return seconds > 0 ? static_cast<double>(tokens) / seconds : 0;
}

}  // namespace

void add_generation_options(CLI::App& verb, GenerationOptions& options) {
  SamplerOptions& sampler = options.generate.sampler;
  verb.add_option("MODEL", options.model, "Model directory or GGUF file")->required();
  verb.add_option("--max-tokens", options.generate.max_tokens,
                  "Stop after N tokens; -1 = when the model ends")
      ->capture_default_str()
      ->type_name("N");
  verb.add_option("--temperature", sampler.temperature, "0 = the most probable token (greedy)")
      ->capture_default_str();
  verb.add_option("--top-k", sampler.top_k, "Only the K most probable tokens; 0 = all")
      ->capture_default_str();
  verb.add_option("--top-p", sampler.top_p, "Only the most probable tokens that make up P together")
      ->capture_default_str();
  verb.add_option("--min-p", sampler.min_p, "Only tokens at least P times as probable as the most probable")
      ->capture_default_str();
  verb.add_option("--repeat-penalty", sampler.repetition_penalty,
                  "Divides the logits of tokens seen; 1 = none")
      ->capture_default_str();
  verb.add_option("--stop", options.generate.stop, "Stop before this text (may be given more than once)")
      ->allow_extra_args(false)  // or it would take MODEL for another one
      ->type_name("TEXT");
  add_decoding(verb, options.decoding);
  verb.add_flag("--show-depth", options.show_depth,
                "Colour each token by the visits that it took: blue for few, red for all");
  add_dtype(verb, options.dtype);
  add_kv(verb, options.kv);
  verb.add_flag("--trace", options.trace,
                "A line about each operation on standard error: shape, time, rates");
  verb.add_option("--context", options.context, "Most tokens of a sequence; 0 = the model's limit")
      ->capture_default_str()
      ->check(at_least(0));
  verb.add_option("--kv-memory", options.kv_memory,
                  "Most memory of keys and values, as 500M or 2G; 0 = no limit")
      ->capture_default_str()
      ->type_name("SIZE")
      ->transform(CLI::AsSizeValue(true));
}

LoadedModel load_model(GenerationOptions& options, bool quiet) {
  (void)Sampler(options.generate.sampler);  // wrong options are told before a large model is read
  Checkpoint checkpoint = load_checkpoint(options.model);
  options.generate.decoder = decoder_options(options.decoding, checkpoint.plan);
  Tokenizer tokenizer = load_tokenizer(options.model);
  Engine engine(checkpoint, {.compute = choose_compute(options.dtype, checkpoint),
                             .kv = choose_kv(options.kv),
                             .max_context = options.context,
                             .kv_memory = options.kv_memory,
                             .single_slot = options.generate.decoder.exited_kv == ExitedKv::single,
                             .trace = options.trace,
                             .cache = user_cache()});
  if (!quiet)
    fmt::print(stderr, "{} of weights; {}\n", format_bytes(engine.weight_bytes()),
               engine.backend().describe());
  return {std::move(checkpoint), std::move(tokenizer), std::move(engine)};
}

ChatTemplate chat_template_of(const LoadedModel& model) {
  const std::string& source = model.tokenizer.chat_template();
  if (source.empty())
    fail("{}: the model has no chat template; use `fathom generate` without --chat",
         model.checkpoint.source.string());
  return about(model.checkpoint.source, [&] { return ChatTemplate(source); });
}

std::string speed_line(const Generated& generated, const DepthPlan& plan) {
  const auto count = std::ssize(generated.tokens);
  std::string line =
      fmt::format("prompt {} tokens, {:.1f} tok/s; generated {} tokens, {:.1f} tok/s; stopped by {}",
                  generated.prompt_tokens, rate(generated.prompt_tokens, generated.prompt_seconds), count,
                  rate(count, generated.generate_seconds), to_string(generated.reason));
  if (const std::string depth = depth_line(generated.counts, plan); !depth.empty()) line += "; " + depth;
  return line;
}

void print_at_depth(const GenerationOptions& options, const DepthPlan& plan, std::string_view text,
                    std::int64_t visits) {
  if (!options.show_depth) return print_text(text);
  // The corner of the 6 x 6 x 6 cube that goes from blue over green and yellow to red.
  constexpr int colours[] = {27, 39, 51, 49, 47, 82, 118, 154, 190, 226, 220, 214, 208, 202, 196};
  const auto last = std::ssize(colours) - 1;
  const auto at = plan.depth() > 1 ? (visits - 1) * last / (plan.depth() - 1) : last;
  print_text(fmt::format("\x1b[38;5;{}m{}\x1b[0m", colours[std::clamp<std::int64_t>(at, 0, last)], text));
}

void print_text(std::string_view text) {
  std::fwrite(text.data(), 1, text.size(), stdout);
  std::fflush(stdout);
}

}  // namespace fathom
