// Layer dropout (Elhoushi et al. 2024, arXiv 2404.16710, 4.1.1): each sequence leaves out each visit by
// chance, later ones more often, so that earlier ones learn to do without them.
#pragma once

#include <ATen/ATen.h>

#include <cstdint>
#include <functional>
#include <span>
#include <vector>

#include "train/train.h"

namespace fathom {

/// Probability that a sequence leaves out visit l of L at step t of T: p(l, t) = S(t) D(l) rate with
/// D(l) = 2^(l / (L - 1)) - 1, and S(t) = 1, or 2^(t / (T - 1)) - 1 where the rate grows.
double drop_probability(const LayerDropoutOptions& options, std::int64_t visit, std::int64_t depth,
                        std::int64_t step, std::int64_t steps);

/// The batch's sequences that a visit takes in, by visit; empty: each takes in all.
using KeptSequences = std::vector<std::vector<std::int64_t>>;

/// The draws for a batch of these sequences (their positions in the row of all that a run learns): from seed,
/// step, position and visit alone, so that a run that is resumed draws the same.
KeptSequences kept_sequences(const LayerDropoutOptions& options, std::uint64_t seed, std::int64_t depth,
                             std::int64_t step, std::int64_t steps, std::span<const std::int64_t> positions);

/// h[sequences * length, width] with body(h) in place of the rows of the sequences kept. What is left out is
/// not computed. (Kept ones are not scaled up: the paper does not.)
at::Tensor on_kept(const at::Tensor& h, std::int64_t length, const std::vector<std::int64_t>& kept,
                   const std::function<at::Tensor(const at::Tensor&)>& body);

}  // namespace fathom
