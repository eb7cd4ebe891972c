#include "cli/generation.h"

#include <cstdio>

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
  add_dtype(verb, options.dtype);
  add_kv(verb, options.kv);
  verb.add_flag("--trace", options.trace,
                "A line about each operation on standard error: shape, time, rates");
  verb.add_option("--context", options.context, "Most tokens of a sequence; 0 = the model's limit")
      ->capture_default_str()
      ->check(at_least(0));
}

LoadedModel load_model(const GenerationOptions& options, bool quiet) {
  (void)Sampler(options.generate.sampler);  // wrong options are told before a large model is read
  Checkpoint checkpoint = load_checkpoint(options.model);
  Tokenizer tokenizer = load_tokenizer(options.model);
  Engine engine(checkpoint, {.compute = choose_compute(options.dtype, checkpoint),
                             .kv = choose_kv(options.kv),
                             .max_context = options.context,
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

std::string speed_line(const Generated& generated) {
  const auto count = std::ssize(generated.tokens);
  return fmt::format("prompt {} tokens, {:.1f} tok/s; generated {} tokens, {:.1f} tok/s; stopped by {}",
                     generated.prompt_tokens, rate(generated.prompt_tokens, generated.prompt_seconds), count,
                     rate(count, generated.generate_seconds), to_string(generated.reason));
}

void print_text(std::string_view text) {
  std::fwrite(text.data(), 1, text.size(), stdout);
  std::fflush(stdout);
}

}  // namespace fathom
