// Text from a prompt, streamed.
#pragma once

#include <functional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "runtime/decoder.h"
#include "runtime/engine.h"
#include "runtime/sampler.h"

namespace fathom {

struct GenerateOptions {
  std::int64_t max_tokens = -1;        ///< -1: until the model ends or the context is full
  std::vector<std::string> stop = {};  ///< strings that end the text; they are not part of it
  bool ignore_end = false;             ///< goes on after end tokens
  SamplerOptions sampler = {};
  DecoderOptions decoder = {};
};

enum class StopReason { end_of_text, stop_string, max_tokens, context_full, interrupted };
/// "end_of_text", ...
std::string_view to_string(StopReason reason);

struct Generated {
  std::vector<Token> tokens;         ///< all that were sampled, the end token included
  std::vector<std::int64_t> visits;  ///< of each token: made by the one before it, from which it was chosen
  std::string text;                  ///< what was streamed
  Decoder::Counts counts;
  StopReason reason = StopReason::max_tokens;
  std::int64_t prompt_tokens = 0;  ///< that the sequence did not hold yet
  double prompt_seconds = 0, generate_seconds = 0;
};

/// Continues `prompt` in `sequence`, which may already hold the first of its tokens (earlier turns), but not
/// all of them. `stream` gets whole UTF-8 characters as soon as they are certain not to belong to a stop
/// string; it may be null. The text is what decoding prompt and answer together has behind the prompt's text.
/// Of the last token sampled keys and values are not computed: Engine::length tells what the sequence holds.
/// `stream` is told how many visits the piece's last token took. The repetition penalty looks at `prompt` and
/// what follows. A signal (base/interrupt.h) ends it with what is there, reason `interrupted`. Throws Error
/// when the prompt does not fit into the context; UsageError when prompt or a stop string are empty.
Generated generate(Engine& engine, const Tokenizer& tokenizer, int sequence, std::span<const Token> prompt,
                   const GenerateOptions& options,
                   const std::function<void(std::string_view text, std::int64_t visits)>& stream);

/// Passes text on but for stop strings, wherever they are cut into pieces.
class StopFilter {
 public:
  /// Throws UsageError for an empty string.
  explicit StopFilter(std::vector<std::string> stops);

  /// What is certain, after one more piece, not to belong to a stop string. Once a stop string is complete,
  /// the text before it.
  std::string push(std::string_view piece);
  /// What was held back, at the end of the text.
  std::string finish() { return std::exchange(held_, ""); }
  bool stopped() const { return stopped_; }

 private:
  std::vector<std::string> stops_;
  std::string held_;
  bool stopped_ = false;
};

}  // namespace fathom
