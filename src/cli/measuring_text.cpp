#include "cli/measuring_text.h"

#include <algorithm>
#include <cmath>
#include <numbers>
#include <string_view>

#include "base/error.h"
#include "base/progress.h"
#include "cli/about.h"
#include "formats/documents.h"
#include "runtime/model.h"
#include "runtime/self_corpus.h"

namespace fathom {
namespace {

/// `tokens` tokens of a text, in stretches from all over it, as any first part of them is, too: the first
/// pages of a collection speak of one thing, and what is fitted to them fits the rest less well (a repair of
/// SmolLM2 by 64k tokens of an encyclopedia: perplexity 26.4 by its beginning, 26.0 by all of it).
std::vector<Token> spread_tokens(const Tokenizer& tokenizer, std::string_view text, std::int64_t tokens) {
  constexpr std::int64_t stretch = 2048, bytes_a_token = 8;  // more than any language needs on average
  const std::int64_t stretches = (tokens + stretch - 1) / stretch;
  if (std::ssize(text) <= tokens * bytes_a_token) return tokenizer.encode(text, false);
  const auto between_characters = [text](std::int64_t at) {
    auto place = static_cast<std::size_t>(at);
    while (place < text.size() && (static_cast<unsigned char>(text[place]) & 0xc0U) == 0x80U) ++place;
    return std::min(place, text.size());
  };
  std::vector<Token> ids;
  for (std::int64_t i = 0; i < stretches; ++i) {
    const double turn = static_cast<double>(i) * std::numbers::phi;  // whose first few are spread evenly, too
    const auto begin = static_cast<std::int64_t>(
        (turn - std::floor(turn)) * static_cast<double>(std::ssize(text) - stretch * bytes_a_token));
    const std::size_t first = between_characters(begin),
                      last = between_characters(begin + stretch * bytes_a_token);
    const auto own = tokenizer.encode(text.substr(first, last - first), false);
    ids.insert(ids.end(), own.begin(), own.begin() + std::min(stretch, std::ssize(own)));
  }
  return ids;
}

}  // namespace

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
    result.ids = spread_tokens(tokenizer, read_text(options.text, text_format(options.text_format)), tokens);
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
