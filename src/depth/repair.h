// What a change in depth broke, repaired in closed form: linear maps that are kept are fitted to the
// original's hidden states.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "model/checkpoint.h"
#include "text/tokenizer.h"

namespace fathom {

struct RepairOptions {
  std::int64_t context = 512;
  std::int64_t max_tokens = 65'536;
  Token bos = -1;  ///< put before each window, if not negative
};

/// A visit of the changed model whose o and down projections are fitted, so that the hidden state after it is
/// the original's after its first `depth` visits.
struct RepairedVisit {
  std::int64_t visit = 0;
  std::int64_t depth = 0;
};

/// After dropping visits: the last visit before each seam, and those behind it that a repair gains from (two,
/// measured on SmolLM2; farther behind what is fitted does not carry over to other texts).
std::vector<RepairedVisit> visits_at_seams(std::int64_t original_depth,
                                           std::span<const std::int64_t> dropped);
/// After tying: all visits with adapters, which are what a visit has for itself.
std::vector<RepairedVisit> visits_with_adapters(const Checkpoint& changed);

/// Why the model cannot be repaired; empty where it can: norms behind a branch stand between what is fitted
/// and the residual stream, and a layer that several visits run has no weights for one of them.
std::string why_no_repair(const Checkpoint& changed, std::span<const RepairedVisit> visits);

/// The changed model with these visits refitted, in order, each with the inputs of the model that is repaired
/// up to there, so that errors do not pile up. Free at run time: no tensor changes its shape.
///
/// With t the original's state, y = h + W g the visit's output and g what down reads, down becomes W + ΔW
/// with
///   ΔW = argmin sum w |t - y - ΔW g|², w = 1 / |t|
/// (ReplaceMe, Shopkhoev et al. 2025, arXiv 2505.02819, fits a map of W g; all of W leaves no more error, and
/// costs no more). Before that o is fitted in the same way and moved half of that, since it changes what down
/// reads. 1 / |t| and not its square, because a sequence's first state is a hundred times as long as others:
/// whatever moves that breaks the attention of all tokens. Where the visit has adapters, they and not the
/// layer's weights take ΔW, as well as their rank allows under what the map reads.
///
/// Shows a progress bar. Throws Error when the text is shorter than one window, or why_no_repair says why.
Checkpoint repair(const Checkpoint& original, const Checkpoint& changed,
                  std::span<const RepairedVisit> visits, std::span<const Token> ids,
                  const RepairOptions& options);

}  // namespace fathom
