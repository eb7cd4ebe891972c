#include "cli/measuring_text.h"

#include <algorithm>

#include "base/error.h"
#include "base/progress.h"
#include "cli/about.h"
#include "formats/documents.h"
#include "runtime/self_corpus.h"

namespace fathom {

MeasuringText measuring_text(const Checkpoint& checkpoint, const TextOptions& options, std::int64_t tokens,
                             std::uint64_t seed) {
  const Tokenizer tokenizer = load_tokenizer(checkpoint.source);
  MeasuringText result{.ids = {}, .bos = tokenizer.bos().value_or(-1), .origin = options.text.string()};
  if (options.text.empty()) {
    Engine engine(checkpoint, {.compute = float_compute(checkpoint), .max_context = 0});
    const SelfCorpusOptions corpus{.tokens = tokens,
                                   .length = std::min<std::int64_t>(512, engine.max_context()),
                                   .batch = 32,
                                   .temperature = 1.0,
                                   .seed = seed};
    const auto documents = about(checkpoint.source, [&] { return self_corpus(engine, tokenizer, corpus); });
    for (const auto& document : documents) {
      result.ids.insert(result.ids.end(), document.begin(), document.end());
    }
    result.origin = "the model's own samples";
  } else {
    // No token of text is longer than 64 bytes on average, and the rest need not be tokenised.
    std::string text = read_text(options.text, text_format(options.text_format));
    text.resize(std::min(text.size(), static_cast<std::size_t>(tokens) * 64));
    result.ids = tokenizer.encode(text, false);
  }
  result.ids.resize(std::min(result.ids.size(), static_cast<std::size_t>(tokens)));
  return result;
}

std::string parameter_change(const Checkpoint& before, const Checkpoint& after) {
  return fmt::format("{} → {} non-embedding parameters",
                     format_count(count_parameters(before).non_embedding()),
                     format_count(count_parameters(after).non_embedding()));
}

void note_lost_exits(const Checkpoint& checkpoint) {
  if (!checkpoint.exits.empty())
    print_note(fmt::format(
        "{}: what was fitted to its exits is left out, since layers change: fit it again with `fathom exits`",
        (checkpoint.source / exits_file).string()));
}

std::string layer_ranges(const std::vector<std::int64_t>& layers) {
  std::string text;
  for (std::size_t i = 0; i < layers.size();) {
    std::size_t last = i;
    while (last + 1 < layers.size() && layers[last + 1] == layers[last] + 1) ++last;
    text += text.empty() ? "" : ", ";
    text += last == i ? fmt::format("{}", layers[i]) : fmt::format("{}-{}", layers[i], layers[last]);
    i = last + 1;
  }
  return text;
}

}  // namespace fathom
