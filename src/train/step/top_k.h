// Distillation from the teacher's most probable tokens alone.
//
// What a teacher says of a token is a probability for every entry of the vocabulary, 100 KB in bfloat16; its
// k = 64 likeliest are 256 bytes, and can be kept. All others count as one: the divergence is that of two
// distributions over k + 1 events, the k tokens and "any other",
//   KL = sum over k of p_i log(p_i / q_i) + p_rest log(p_rest / q_rest),   p_rest = 1 - sum of the p_i,
// which is 0 where teacher and student agree on these events and never more than the whole KL. Renormalising
// the k to 1 instead, or leaving the rest out, would teach the student that nothing else is ever said: both
// sharpen it, the more the smaller k is (Anshumann et al. 2025, arXiv 2503.16870, "Sparse Logit Sampling",
// section 3). The student's own probabilities decide how q_rest falls to the others: the gradient with
// respect to the logit of any of them is q_j (1 - p_rest / q_rest).
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "train/kernels/vocabulary_loss.h"

namespace fathom {

/// The k most probable tokens of some rows, one row after the other, each from the most probable on.
struct TopTokens {
  std::int64_t k = 0;
  std::vector<std::uint32_t> ids = {};
  std::vector<std::uint16_t> log_probs = {};  ///< f16

  /// Appends those of logits[rows, vocab], softened by the temperature. Of equal ones the first is taken; k
  /// is at most vocab.
  void append(std::int64_t rows, std::int64_t vocab, const float* logits, float temperature);
};

/// As vocabulary_loss by forward KL (vocabulary_loss.h), from the top tokens of rows [first, first + rows).
/// They must have been taken at the same temperature.
LossSums top_k_loss(std::int64_t rows, std::int64_t vocab, const LossWeights& weights,
                    const LogitRows& logits, const TopTokens& teacher, std::int64_t first,
                    std::span<const std::int32_t> labels);

}  // namespace fathom
