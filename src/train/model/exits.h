// Early exits in training: the same final norm and head read the hidden state after other visits than the
// last, too, and the losses there are added to the last one's.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "model/depth_plan.h"

namespace fathom {

/// How much the loss of an exit counts beside the others'.
enum class ExitWeighting {
  aggressive,  ///< alpha each, the last visit 1 (Bae et al. 2024, arXiv 2410.20672, 3.7 and appendix J)
  weighted,    ///< i / sum i for exit i, counted from 1, the last visit being the last of them (the same)
  layerskip    ///< e(l) / sum e: square in the depth (Elhoushi et al. 2024, arXiv 2404.16710, 4.1.2)
};

/// Which exits are learned at a step (arXiv 2404.16710, 4.1.2); the last visit always is.
enum class ExitCurriculum {
  all,
  rotational,  ///< every Rth visit, another set of them each step
  gradual      ///< from the last visit down, one more each steps / (2 depth) steps: all by half of the run
};

struct ExitOptions {
  std::vector<std::int64_t> visits;  ///< after which there is one, ascending, without the last; empty: none
  ExitWeighting weighting = ExitWeighting::aggressive;
  double alpha = 0.1;  ///< for aggressive
  double scale = 0.2;  ///< for layerskip: e_scale
  ExitCurriculum curriculum = ExitCurriculum::all;
  std::int64_t rotation = 8;  ///< for rotational: R
  double cross_entropy = 1;   ///< weights within an exit's loss: of cross-entropy with the text, and
  double divergence = 1;      ///< of the divergence from the last visit's distribution, which is not moved
};

struct ExitWeight {
  std::int64_t visit = 0;
  double weight = 0;
};

/// The exits of step `step` (from 0) of `steps` for a model of `depth` visits, ascending, the last visit at
/// the end; an exit whose weight is 0 is left out. For layerskip e(l) = scale * (0 + 1 + ... + l), and for
/// the last visit depth - 1 + scale * (0 + ... + depth - 2); these and `weighted` are divided by their sum
/// over the exits of the step.
std::vector<ExitWeight> exit_weights(const ExitOptions& options, std::int64_t depth, std::int64_t step,
                                     std::int64_t steps);

/// Exits by name: "loops" (where the next visit goes back to an earlier layer), "all", "plan" (those that
/// the model has), or visits such as "5,11-13". Throws UsageError when there are none, or for the last visit.
std::vector<std::int64_t> parse_exits(const std::string& text, const DepthPlan& plan);

}  // namespace fathom
