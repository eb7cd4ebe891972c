#include "compress/candidates.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>
#include <set>

#include "base/error.h"
#include "base/progress.h"
#include "depth/prune.h"

namespace fathom {
namespace {

// The published rates differ by an order of magnitude; these two were measured on SmolLM2 at 2,048 tokens a
// step.
constexpr double prune_learning_rate =
    2e-4;  // on its own samples as good as train's 3e-4, which suits real text
// 5e-4 undid the calibrated fit (perplexity 37 -> 68); 1e-4 won 34.2 -> 31.5 back in the first 14k tokens.
constexpr double recur_learning_rate = 1e-4;
constexpr std::int64_t rank_step = 8;

/// Non-embedding parameters of `options` applied to `original`; norms and biases count in full, since a visit
/// may keep its own.
std::int64_t recursive_parameters(const Checkpoint& original, const RecurOptions& options) {
  const ModelConfig& config = original.config;
  const std::int64_t depth = original.plan.depth();
  const std::int64_t vectors =
      count_parameters(original).non_embedding() - relaxed_parameters(config, depth, 0, 0);
  const auto layers = share_layers(depth, options.loops, options.sharing);
  const auto unique = static_cast<std::int64_t>(std::set(layers.begin(), layers.end()).size());
  std::int64_t tied = 0;
  for (const auto layer : layers) tied += std::count(layers.begin(), layers.end(), layer) > 1 ? 1 : 0;
  return vectors + relaxed_parameters(config, unique, 0, 0) +
         relaxed_parameters(config, 0, tied, options.rank);
}

}  // namespace

Candidate prune_to(const Checkpoint& original, const Profile& profile, double target) {
  const auto budget = static_cast<std::int64_t>(
      std::floor(target * static_cast<double>(count_parameters(original).non_embedding())));
  const std::int64_t depth = original.plan.depth();
  for (std::int64_t count = 1; count <= depth - 2; ++count) {
    const std::int64_t first = most_similar_block(profile, count);
    std::vector<std::int64_t> visits(static_cast<std::size_t>(count));
    std::iota(visits.begin(), visits.end(), first);
    Candidate candidate{.method = "prune",
                        .what = {},
                        .why = {},
                        .cut = prune(original, visits),
                        .repairs = visits_at_seams(depth, visits),
                        .learning_rate = prune_learning_rate};
    if (count_parameters(candidate.cut).non_embedding() > budget) continue;
    candidate.what = count == 1 ? fmt::format("layer {} dropped", first)
                                : fmt::format("layers {}-{} dropped", first, first + count - 1);
    candidate.why = fmt::format(
        "of all blocks of {} the one whose input and output are most alike (angular distance {:.3f})", count,
        profile.angular[static_cast<std::size_t>(count - 1)][static_cast<std::size_t>(first)]);
    return candidate;
  }
  fail_usage("--target {} cannot be met by dropping layers: two of {} layers already hold more than that",
             target, depth);
}

RecurOptions recursion_within(const Checkpoint& original, double target) {
  const auto full = static_cast<double>(count_parameters(original).non_embedding());
  const auto budget = static_cast<std::int64_t>(target * full);
  const std::int64_t depth = original.plan.depth();
  auto smallest = std::numeric_limits<std::int64_t>::max();
  for (std::int64_t loops = 2; loops <= depth; ++loops) {
    RecurOptions options;
    options.loops = loops;
    if ((depth - 2) % loops == 0) {
      options.sharing = Sharing::middle_sequence;
    } else if (depth % loops == 0) {
      options.sharing = Sharing::sequence;
    } else {
      continue;
    }
    options.rank = rank_step;
    const std::int64_t least = recursive_parameters(original, options);
    smallest = std::min(smallest, least);
    if (least > budget) continue;
    // Every further rank costs the same until it is clipped at the narrowest matrix; the loop is short either
    // way.
    const std::int64_t widest = std::min(original.config.hidden_size, original.config.intermediate_size);
    while (options.rank + rank_step <= widest) {
      options.rank += rank_step;
      if (recursive_parameters(original, options) > budget) {
        options.rank -= rank_step;
        break;
      }
    }
    return options;
  }
  fail_usage("--target {} cannot be met by tying layers: the smallest is {:.2f}", target,
             static_cast<double>(smallest) / full);
}

Candidate recur_to(const Checkpoint& original, const RecurOptions& options, SecondMoments* moments,
                   std::span<const Token> ids) {
  Candidate candidate{
      .method = "recur",
      .what = {},
      .why = {},
      .cut = moments != nullptr ? recur(original, options, *moments) : recur(original, options, ids),
      .repairs = {},
      .learning_rate = recur_learning_rate};
  candidate.repairs = visits_with_adapters(candidate.cut);
  candidate.what = fmt::format("{}, LoRA of rank {}", candidate.cut.plan.describe(), options.rank);
  candidate.why = fmt::format(
      "neighbouring layers are the cheapest to tie; rank {} is the largest multiple of {} within the target",
      options.rank, rank_step);
  return candidate;
}

}  // namespace fathom
