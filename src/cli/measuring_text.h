// The text that `profile`, `prune` and `recur` measure a model on, and how they say what became of it.
#pragma once

#include <cstdint>
#include <filesystem>
#include <string>
#include <vector>

#include "model/checkpoint.h"
#include "text/tokenizer.h"

namespace fathom {

constexpr int most_measuring_tokens = 100'000'000;

struct MeasuringText {
  std::vector<Token> ids;
  Token bos = -1;      ///< what the tokenizer puts before a text; -1: nothing
  std::string origin;  ///< the file's name, or "the model's own samples"
};

/// --text and --text-format of these verbs.
struct TextOptions {
  std::filesystem::path text;
  std::string text_format = "auto";
};

/// `tokens` tokens from all over the text, or all of a shorter one; where none was given, as many sampled from the model itself. Throws
/// Error.
MeasuringText measuring_text(const Checkpoint& checkpoint, const TextOptions& options, std::int64_t tokens,
                             std::uint64_t seed);

/// "106.2M → 92.0M non-embedding parameters".
std::string parameter_change(const Checkpoint& before, const Checkpoint& after);

/// Says that what was fitted to a model's exits does not go with layers that change, where there is such.
void note_lost_exits(const Checkpoint& checkpoint);

/// "3, 12-15".
std::string layer_ranges(const std::vector<std::int64_t>& layers);

}  // namespace fathom
