// From logits to a token: greedy, temperature, top-k, top-p, min-p, repetition penalty.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "base/random.h"
#include "text/tokenizer.h"

namespace fathom {

struct SamplerOptions {
  double temperature = 0;  ///< 0: greedy
  std::int64_t top_k = 0;  ///< the k most probable tokens, and what ties with the last of them; 0: all
  double top_p = 1;        ///< smallest set of tokens with at least this probability (Holtzman et al. 2020)
  double min_p = 0;        ///< at least this fraction of the most probable token's probability
  double repetition_penalty =
      1;  ///< Keskar et al. 2019: divides positive and multiplies negative logits of tokens seen
  std::uint64_t seed = 0;
};

/// Applies, in the order of transformers' generate(): repetition penalty, temperature, top-k, top-p (of what
/// top-k left, renormalised), min-p; then draws. Without temperature the penalised maximum is taken, the
/// first of equals. The same seed and logits give the same tokens.
class Sampler {
 public:
  /// Throws UsageError for options out of range.
  explicit Sampler(const SamplerOptions& options);

  /// Picks from logits [vocab] (changed in place); `seen` are the tokens that the penalty looks at, each
  /// counted once. Throws Error when a logit is NaN or +infinity, or all are -infinity: the model is broken.
  Token pick(std::span<float> logits, std::span<const Token> seen);

 private:
  struct Candidate {
    Token token;
    float weight;  ///< exp((logit - largest logit) / temperature)
  };

  void penalise(std::span<float> logits, std::span<const Token> seen) const;
  void collect(std::span<const float> logits, float largest);
  void keep_top_p();
  Token draw();

  SamplerOptions options_;
  Random random_;
  std::vector<Candidate> candidates_;
  std::vector<float> scratch_;
};

}  // namespace fathom
