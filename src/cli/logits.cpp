// fathom logits: what the model says about each next token, for comparison with any other implementation.
#include <algorithm>
#include <filesystem>
#include <memory>
#include <optional>
#include <vector>

#include "base/error.h"
#include "base/progress.h"
#include "cli/about.h"
#include "cli/verbs.h"
#include "formats/npy.h"
#include "model/checkpoint.h"
#include "runtime/engine.h"
#include "runtime/lm_head.h"
#include "text/tokenizer.h"

namespace fathom {
namespace {

struct LogitsOptions : CommonOptions {
  std::filesystem::path model, out;
  std::optional<std::string> text;
  std::string dtype = "f32";
  std::vector<Token> ids;
  bool step = false;
};

// Hidden states of all tokens: one prefill, or token by token through the cache.
std::vector<float> hidden_states(Engine& engine, const std::vector<Token>& ids, bool step,
                                 Progress& progress) {
  const int sequence = engine.open();
  const auto count = static_cast<std::int64_t>(ids.size());
  const std::int64_t at_once = step ? 1 : count;
  std::vector<float> hidden;
  for (std::int64_t i = 0; i < count; i += at_once) {
    const auto part = std::span(ids).subspan(static_cast<std::size_t>(i), static_cast<std::size_t>(at_once));
    const Feed feed = {.sequence = sequence, .tokens = part, .keep = at_once};
    const std::vector<float> states = engine.forward({&feed, 1});
    hidden.insert(hidden.end(), states.begin(), states.end());
    progress.advance(at_once);
  }
  return hidden;
}

void run_logits(const LogitsOptions& options) {
  apply_common(options);
  if (!options.text && options.ids.empty()) fail_usage("give either --text or --ids");
  const Checkpoint checkpoint = load_checkpoint(options.model);
  const std::vector<Token> ids =
      options.text ? load_tokenizer(options.model).encode(*options.text) : options.ids;
  if (ids.empty()) fail_usage("there are no tokens: the text is empty");
  Engine engine(checkpoint, {.compute = choose_compute(options.dtype, checkpoint), .cache = user_cache()});
  fmt::print(stderr, "{} of weights; {}\n", format_bytes(engine.weight_bytes()), engine.backend().describe());

  const auto rows = static_cast<std::int64_t>(ids.size());
  const std::int64_t hidden_size = engine.config().hidden_size, vocab_size = engine.config().vocab_size;
  Progress progress("logits", rows, "tok");
  const std::vector<float> hidden =
      about(options.model, [&] { return hidden_states(engine, ids, options.step, progress); });
  progress.finish();
  // A chunk of 64 rows: 64 x 50,000 logits are 13 MB.
  constexpr std::int64_t chunk = 64;
  NpyWriter writer(options.out, rows, vocab_size);
  std::vector<float> logits(static_cast<std::size_t>(std::min(chunk, rows) * vocab_size));
  for (std::int64_t row = 0; row < rows; row += chunk) {
    const std::int64_t count = std::min(chunk, rows - row);
    engine.head().logits(count, hidden.data() + row * hidden_size, logits.data());
    writer.append(std::span(logits).first(static_cast<std::size_t>(count * vocab_size)));
  }
  writer.commit();
  fmt::print(stderr, "{}: float32 [{}, {}]\n", options.out.string(), rows, vocab_size);
}

}  // namespace

void add_logits(CLI::App& program) {
  CLI::App* verb = program.add_subcommand("logits", "Logits of a text's tokens as a NumPy file");
  auto options = std::make_shared<LogitsOptions>();
  verb->add_option("MODEL", options->model, "Model directory or GGUF file")->required();
  auto* text = verb->add_option("--text", options->text,
                                "Text; the model's tokenizer is used, with BOS where it has one");
  verb->add_option("--ids", options->ids, "Token ids instead, separated by commas")
      ->delimiter(',')
      ->check(at_least(0))
      ->excludes(text)
      ->allow_extra_args(false);
  verb->add_option("--out", options->out, "File to write: float32 [tokens, vocabulary]")
      ->required()
      ->type_name("FILE.npy");
  add_dtype(*verb, options->dtype);
  verb->add_flag("--step", options->step, "Token by token through the KV cache, not in one prefill");
  add_common(*verb, *options, false);
  verb->footer("Example:\n  fathom logits model/ --ids 1,2,3 --out logits.npy");
  verb->callback([options] { run_logits(*options); });
}

}  // namespace fathom
