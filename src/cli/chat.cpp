#include <unistd.h>

#include <algorithm>
#include <cstdio>
#include <iostream>
#include <memory>

#include "base/error.h"
#include "base/interrupt.h"
#include "cli/about.h"
#include "cli/generation.h"
#include "cli/verbs.h"

namespace fathom {
namespace {

struct Options : CommonOptions, GenerationOptions {
  std::string system;
};

/// A conversation whose keys and values stay in one sequence: a turn feeds only what is new.
class Conversation {
 public:
  Conversation(LoadedModel& model, const Options& options)
      : model_(model), options_(options), template_(chat_template_of(model)), sequence_(model.engine.open()) {
    reset();
  }

  void reset() {
    messages_ = Json::array();
    if (!options_.system.empty()) messages_.push_back({{"role", "system"}, {"content", options_.system}});
    first_turn_ = messages_.size();
  }

  /// Answers a message, streamed to standard output. Ctrl-C ends the answer; what was said stays.
  void answer(const std::string& message, std::uint64_t seed) {
    messages_.push_back({{"role", "user"}, {"content", message}});
    try {
      const std::vector<Token> ids = fitting_tokens();
      model_.engine.truncate(sequence_, static_cast<std::int64_t>(common_prefix(ids)));
      held_ = ids;
      GenerateOptions generation = options_.generate;
      generation.sampler.seed = seed;
      const Generated generated = generate(model_.engine, model_.tokenizer, sequence_, ids, generation,
                                           [&](std::string_view text, std::int64_t visits) {
                                             print_at_depth(options_, model_.checkpoint.plan, text, visits);
                                           });
      held_.insert(held_.end(), generated.tokens.begin(), generated.tokens.end());
      messages_.push_back({{"role", "assistant"}, {"content", generated.text}});
      print_text("\n");
      if (!options_.quiet) fmt::print(stderr, "[{}]\n", speed_line(generated, model_.checkpoint.plan));
    } catch (const Error&) {
      messages_.erase(messages_.size() - 1);  // the message that has no answer
      throw;
    }
  }

 private:
  std::vector<Token> tokens() const {
    return model_.tokenizer.encode(template_.render(chat_context(model_.tokenizer, messages_)), false);
  }

  /// The conversation's tokens; the oldest turns are forgotten until it leaves a quarter of the context free.
  std::vector<Token> fitting_tokens() {
    std::vector<Token> ids = tokens();
    const std::int64_t most = model_.engine.max_context() - model_.engine.max_context() / 4;
    while (std::ssize(ids) > most && messages_.size() >= first_turn_ + 3) {
      messages_.erase(first_turn_);
      messages_.erase(first_turn_);
      ids = tokens();
      fmt::print(stderr, "[the oldest turn is forgotten: the context takes {} tokens]\n",
                 model_.engine.max_context());
    }
    return ids;
  }

  /// How many tokens of the sequence can stay: at least one must be fed for the next to be predicted.
  std::size_t common_prefix(const std::vector<Token>& ids) const {
    const auto known = std::min<std::size_t>(held_.size(), model_.engine.length(sequence_));
    const std::size_t most = std::min(known, ids.size() - std::min<std::size_t>(ids.size(), 1));
    const auto differs =
        std::mismatch(held_.begin(), held_.begin() + static_cast<std::ptrdiff_t>(most), ids.begin());
    return static_cast<std::size_t>(differs.first - held_.begin());
  }

  LoadedModel& model_;
  const Options& options_;
  ChatTemplate template_;
  int sequence_;
  Json messages_;
  std::size_t first_turn_ = 0;
  std::vector<Token> held_;  ///< of the sequence, and what was sampled last
};

/// A generation_config.json beside the model says how its makers sample from it, or that they do not.
void take_defaults(const CLI::App& verb, Options& options) {
  SamplerOptions& sampler = options.generate.sampler;
  sampler = {.temperature = verb.count("--temperature") > 0 ? sampler.temperature : 0.7,
             .top_k = sampler.top_k,
             .top_p = verb.count("--top-p") > 0 ? sampler.top_p : 0.95,
             .min_p = sampler.min_p,
             .repetition_penalty = sampler.repetition_penalty};
  const auto path = options.model / "generation_config.json";
  if (!std::filesystem::is_regular_file(path)) return;
  const Json json = read_json(path);
  const JsonObject config(json, path.string());
  const auto take = [&](const char* option, const char* key, double& value) {
    if (verb.count(option) == 0) value = config.number_or(key, value);
  };
  if (config.boolean_or("do_sample", true)) {
    take("--temperature", "temperature", sampler.temperature);
  } else if (verb.count("--temperature") == 0) {
    sampler.temperature = 0;
  }
  take("--top-p", "top_p", sampler.top_p);
  take("--min-p", "min_p", sampler.min_p);
  take("--repeat-penalty", "repetition_penalty", sampler.repetition_penalty);
  if (verb.count("--top-k") == 0)
    sampler.top_k = config.integer_or("top_k", sampler.top_k, 0, std::int64_t{1} << 32);
}

void run(Options& options) {
  LoadedModel model = load_model(options, options.quiet);
  Conversation conversation(model, options);
  const bool terminal = isatty(STDIN_FILENO) != 0;
  if (terminal && !options.quiet)
    fmt::print(stderr, "Ctrl-C ends an answer, /reset starts anew, /exit or Ctrl-D leaves.\n");
  std::uint64_t turn = 0;
  for (std::string line;;) {
    if (terminal) {
      clear_interrupt();  // that ended the last answer
      print_text("> ");
    }
    if (!std::getline(std::cin, line)) break;
    if (line == "/exit") break;
    if (line == "/reset") {
      conversation.reset();
      continue;
    }
    if (line.empty()) continue;
    try {
      about(options.model, [&] { conversation.answer(line, options.seed + turn++); });
    } catch (const Error& e) {
      if (!terminal) throw;
      print_error(e.what());
    }
    if (interrupted() && !terminal) throw Interrupted();
  }
  if (terminal) print_text("\n");
  check_interrupt();  // a signal ends the wait for a line, too
}

}  // namespace

void add_chat(CLI::App& program) {
  auto options = std::make_shared<Options>();
  CLI::App* verb = program.add_subcommand("chat", "Talk with a model that has a chat template");
  add_generation_options(*verb, *options);
  verb->get_option("--temperature")
      ->default_str("0.7, or what generation_config.json says: 0 if do_sample is false");
  verb->get_option("--top-p")->default_str("0.95, or what generation_config.json says");
  verb->add_option("--system", options->system, "The system message")->type_name("TEXT");
  add_common(*verb, *options, false);
  verb->footer(
      "One message a line, from the terminal or a pipe. Ctrl-C ends an answer, /reset starts anew, /exit or\n"
      "Ctrl-D leaves.\n\nExample: fathom chat models/smollm2-135m-instruct.gguf --system \"You are terse.\"");
  verb->callback([options, verb] {
    apply_common(*options);
    take_defaults(*verb, *options);
    run(*options);
  });
}

}  // namespace fathom
