// From logits to a token: greedy, temperature, top-k, top-p, min-p, repetition penalty. In llama.cpp's and
// transformers' terms.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "base/random.h"
#include "model/tokenizer.h"

namespace fathom {

struct SamplerOptions {
  double temperature = 0;  ///< 0: greedy
  std::int64_t top_k = 0;  ///< 0: all
  double top_p = 1;        ///< smallest set of tokens with at least this probability
  double min_p = 0;        ///< at least this fraction of the most probable token's probability
  double repetition_penalty =
      1;  ///< Keskar et al. 2019: divides positive and multiplies negative logits of tokens seen
  std::uint64_t seed = 0;
};

class Sampler {
 public:
  /// Throws UsageError for options out of range.
  explicit Sampler(const SamplerOptions& options);
  /// Picks from logits [vocab] (changed in place); `seen` are the tokens that the penalty looks at.
  Token pick(std::span<float> logits, std::span<const Token> seen);

 private:
  SamplerOptions options_;
  Random random_;
};

}  // namespace fathom
