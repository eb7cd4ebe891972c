// The restructurings that fit a budget.
#pragma once

#include <span>
#include <string>

#include "depth/profile.h"
#include "depth/recur.h"
#include "depth/repair.h"
#include "model/checkpoint.h"
#include "train/train.h"

namespace fathom {

/// One way to meet the target: the restructured model before training, why it is this one, and how it is
/// trained.
struct Candidate {
  std::string method;  ///< "prune" or "recur"
  std::string what;    ///< for people: "visits 12-15 dropped"
  std::string why;
  Checkpoint cut;
  std::vector<RepairedVisit> repairs;  ///< the visits that a repair fits (depth/repair.h)
  double learning_rate = 0;
};

/// Drops the fewest layers that meet the target: the most similar block of that length (arXiv 2403.17887).
/// `target` is the fraction of non-embedding parameters to keep, at most. Throws UsageError when two layers
/// are already too many.
Candidate prune_to(const Checkpoint& original, const Profile& profile, double target);

/// Ties neighbouring layers (all but the first and last, where the depth allows it) into as few loops as the
/// target needs and relaxes them with the largest rank, a multiple of 8, that it leaves room for: the shape
/// alone, from the configuration. Throws UsageError with the smallest target that is possible.
RecurOptions recursion_within(const Checkpoint& original, double target);

/// The model that `options` describe: the calibrated fit, by `moments`, or by `ids` where those of all tied
/// visits do not fit into memory at once (null).
Candidate recur_to(const Checkpoint& original, const RecurOptions& options, SecondMoments* moments,
                   std::span<const Token> ids);

}  // namespace fathom
