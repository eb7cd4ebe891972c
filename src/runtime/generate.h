// Text from a prompt, streamed; and many texts at once from the model itself.
#pragma once

#include <functional>
#include <string>
#include <vector>

#include "runtime/engine.h"
#include "runtime/sampler.h"

namespace fathom {

struct GenerateOptions {
  std::int64_t max_tokens = -1;   ///< -1: until the model ends or the context is full
  std::vector<std::string> stop;  ///< strings that end the text; they are not part of it
  bool ignore_end = false;
  SamplerOptions sampler;
};

enum class StopReason { end_of_text, stop_string, max_tokens, context_full, interrupted };

struct Generated {
  std::vector<Token> tokens;
  std::string text;
  StopReason reason = StopReason::max_tokens;
  std::int64_t prompt_tokens = 0;
  double prompt_seconds = 0, generate_seconds = 0;
};

/// Continues `prompt` in `sequence` (which may already hold earlier turns); `stream` gets whole UTF-8
/// characters as they are certain not to belong to a stop string.
Generated generate(Engine& engine, const Tokenizer& tokenizer, int sequence, std::span<const Token> prompt,
                   const GenerateOptions& options, const std::function<void(std::string_view)>& stream);

struct SelfCorpusOptions {
  std::int64_t tokens = 100'000;  ///< at least so many, without BOS
  std::int64_t length = 512;      ///< a document's most
  std::int64_t batch = 32;        ///< sequences side by side
  double temperature = 1.0;
  std::uint64_t seed = 0;
};

/// Documents that the model writes when nothing is asked (from its BOS or end-of-text token, sampled at
/// `temperature`): the data for calibration and distillation where the user brings no text. Deterministic for
/// a seed. Shows a progress bar.
std::vector<std::vector<Token>> self_corpus(Engine& engine, const Tokenizer& tokenizer,
                                            const SelfCorpusOptions& options);

}  // namespace fathom
