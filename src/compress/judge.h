// What models are compared by: parameters, perplexity, speed and samples.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "base/json.h"
#include "model/checkpoint.h"
#include "runtime/engine.h"
#include "text/tokenizer.h"
#include "train/train.h"

namespace fathom {

/// A model's speed is that of a prompt and of what is generated after it.
inline constexpr std::int64_t timed_prompt_tokens = 512, timed_generated_tokens = 64;

/// Tokens of all the samples that each model writes.
std::int64_t judged_sample_tokens();

struct JudgeOptions {
  std::int64_t context = 512, windows = 64;
  Token bos = -1;
  int speed_repetitions = 3;
  Compute compute = Compute::f32;  ///< the same for all models, so that speeds and losses compare
  Device device = Device::cpu;     ///< computes the losses; speed and samples are the runtime's
};

/// How much of a model is measured; each also what those before it say.
enum class Judged { loss, samples, speed };

class Judge {
 public:
  /// Perplexity is that of `text`. They must outlive it.
  Judge(const Tokenizer& tokenizer, std::span<const Token> text, const JudgeOptions& options)
      : tokenizer_(tokenizer), text_(text), options_(options) {}

  /// The figures of a model. Throws Error, Interrupted.
  Json measure(const Checkpoint& model, Judged judged) const;
  /// The same with an engine of the model that is at hand.
  Json measure(const Checkpoint& model, Engine& engine, Judged judged) const;

 private:
  const Tokenizer& tokenizer_;
  std::span<const Token> text_;
  JudgeOptions options_;
};

}  // namespace fathom
