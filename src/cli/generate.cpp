#include "runtime/generate.h"

#include <cstdio>
#include <memory>
#include <optional>

#include "base/error.h"
#include "base/file.h"
#include "cli/about.h"
#include "cli/generation.h"
#include "cli/verbs.h"

namespace fathom {
namespace {

struct Options : CommonOptions, GenerationOptions {
  std::optional<std::string> prompt;
  std::filesystem::path file;
  bool chat = false;
};

std::vector<Token> prompt_tokens(const Options& options, const LoadedModel& model) {
  const std::string text = options.prompt ? *options.prompt : read_file(options.file);
  if (!options.chat) return model.tokenizer.encode_prompt(text);
  const Json messages = Json::array({{{"role", "user"}, {"content", text}}});
  const ChatTemplate chat = chat_template_of(model);
  return model.tokenizer.encode(chat.render(chat_context(model.tokenizer, messages)), false);
}

Json figures_of(const Options& options, const Generated& generated) {
  const Decoder::Counts& counts = generated.counts;
  Json figures = {{"model", options.model.string()},
                  {"text", generated.text},
                  {"tokens", generated.tokens},
                  {"stopped_by", to_string(generated.reason)},
                  {"prompt_tokens", generated.prompt_tokens},
                  {"prompt_seconds", generated.prompt_seconds},
                  {"generate_seconds", generated.generate_seconds},
                  {"visits", generated.visits}};
  if (counts.verified > 0)
    figures["drafts"] = {
        {"passes", counts.verified}, {"drafted", counts.drafted}, {"accepted", counts.accepted}};
  return figures;
}

void run(Options& options) {
  if (options.prompt.has_value() == !options.file.empty()) fail_usage("give either --prompt or --file");
  options.generate.sampler.seed = options.seed;
  LoadedModel model = load_model(options, options.quiet);
  const bool to_stdout = options.json != "-";
  const Generated generated = about(options.model, [&] {
    return generate(model.engine, model.tokenizer, model.engine.open(), prompt_tokens(options, model),
                    options.generate, [&](std::string_view text, std::int64_t visits) {
                      if (to_stdout) print_at_depth(options, model.checkpoint.plan, text, visits);
                    });
  });
  if (to_stdout) print_text("\n");
  if (!options.quiet) fmt::print(stderr, "{}\n", speed_line(generated, model.checkpoint.plan));
  emit_json(options, figures_of(options, generated));
  if (generated.reason == StopReason::interrupted) throw Interrupted();
}

}  // namespace

void add_generate(CLI::App& program) {
  auto options = std::make_shared<Options>();
  CLI::App* verb = program.add_subcommand("generate", "Continue a text; it is streamed as it is written");
  verb->add_option("--prompt", options->prompt, "The text to continue")->type_name("TEXT");
  verb->add_option("--file", options->file, "A file with the text to continue")->check(CLI::ExistingFile);
  verb->add_flag("--chat", options->chat,
                 "The prompt is a user's message: wrap it by the model's chat template");
  verb->add_flag("--ignore-eos", options->generate.ignore_end, "Go on after the model's end of text");
  add_generation_options(*verb, *options);
  add_common(*verb, *options, true);
  verb->footer(
      "The text goes to standard output, speed and the reason of the stop to standard error. Without "
      "sampling\n"
      "options it is greedy, whatever generation_config.json says (fathom chat follows that). An end token "
      "that\n"
      "the tokenizer puts behind a text is left out of the prompt: nothing that continues it follows an "
      "end.\n\n" +
      exit_rules_help() +
      "\nExample: fathom generate models/smollm2-135m-instruct.gguf --chat --prompt \"Why is the sky "
      "blue?\"\n"
      "Example: fathom generate out --prompt \"The tide\" --exit margin:0.5 --exited-kv copy --show-depth\n"
      "Example: fathom generate out --prompt \"The tide\" --draft 10:6");
  verb->callback([options] {
    apply_common(*options);
    run(*options);
  });
}

}  // namespace fathom
