// The losses over the vocabulary, values and gradient, while a row of logits is in the cache.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

#include "train/kernels/row_kernels.h"

namespace fathom {

/// How far the student's distribution q lies from the teacher's p (Bae et al. 2024, arXiv 2410.20672, table
/// I.1, compares them).
enum class Divergence {
  forward_kl,       ///< KL(p || q) = sum p log(p / q): the student covers all that the teacher finds likely
  reverse_kl,       ///< KL(q || p): the student keeps to what the teacher finds likely
  jensen_shannon,   ///< (KL(p || m) + KL(q || m)) / 2 with m = (p + q) / 2: at most log 2
  total_variation,  ///< sum |p - q| / 2: at most 1
};

struct LossWeights {
  float cross_entropy = 1;
  float divergence = 0;  ///< of the divergence of distributions softened by the temperature T, times T²
                         ///< (times T for total variation), which keeps the gradient's size: near equality
                         ///< divergences are square in the logits / T, total variation linear (Hinton et al.
                         ///< 2015)
  Divergence kind = Divergence::forward_kl;
  float temperature = 1;
  float softcap = 0;  ///< the model's: logit = c tanh(z / c); 0: none. The teacher's logits have had theirs.
  float scale = 1;    ///< of the gradient: one over the tokens of the step
};

/// Sums over rows, unweighted (the divergence with its power of the temperature).
struct LossSums {
  double cross_entropy = 0, divergence = 0;

  LossSums& operator+=(const LossSums& other) {
    cross_entropy += other.cross_entropy;
    divergence += other.divergence;
    return *this;
  }
};

/// Logits [rows, vocab], `stride` elements from the beginning of a row to that of the next.
struct LogitRows {
  Values values;
  std::int64_t stride = 0;

  Values row(std::int64_t index) const {
    return {static_cast<std::byte*>(values.data) + index * stride * (values.bf16 ? 2 : 4), values.bf16};
  }
};

/// The losses of logits[rows, vocab] before the soft cap, which are overwritten by their gradient. The
/// teacher's may be left out if its weight is 0; a label below 0 is left out of the cross-entropy.
LossSums vocabulary_loss(std::int64_t rows, std::int64_t vocab, const LossWeights& weights,
                         const LogitRows& logits, const LogitRows& teacher,
                         std::span<const std::int32_t> labels);

}  // namespace fathom
