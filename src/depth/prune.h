// Dropping layers (Gromov et al. 2024, arXiv 2403.17887; ShortGPT, Men et al. 2024, arXiv 2403.03853).
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "depth/profile.h"
#include "model/checkpoint.h"

namespace fathom {

/// The model of these visits (indices into the plan) alone, in their order, and of the layers and adapters
/// that they name, renumbered.
Checkpoint with_visits(const Checkpoint& checkpoint, std::span<const std::int64_t> visits);

/// The model without these visits, and without the layers and adapters that nobody visits any more; those
/// left are renumbered. Throws UsageError when an index is out of range, doubled, or nothing would be left.
/// Adds to the provenance, with `measurements` as the reason.
Checkpoint prune(const Checkpoint& checkpoint, std::span<const std::int64_t> visits,
                 Json measurements = Json::object());

enum class PruneMethod {
  similarity,       ///< the block of n visits whose input and output are most alike (arXiv 2403.17887, 3.2)
  last,             ///< the n before the last visit (the same, 4.4)
  influence,        ///< the n of least block influence, wherever they lie (ShortGPT)
  influence_block,  ///< the contiguous n of least summed block influence
  perplexity        ///< one by one, each time the one whose loss hurts perplexity least
};
PruneMethod prune_method(const std::string& name);  ///< throws UsageError listing the names

struct VisitChoice {
  std::vector<std::int64_t> visits;  ///< ascending
  Json measurements;                 ///< what spoke for them, for the provenance
};

/// Throws UsageError unless `count` visits, one at least, can be dropped and two are left.
void check_drop(const Checkpoint& checkpoint, std::int64_t count);

/// Which `count` visits to drop. `ids` (a text) is needed by all methods but `last`. Throws
/// UsageError as check_drop does.
VisitChoice choose_visits(const Checkpoint& checkpoint, std::int64_t count, PruneMethod method,
                          std::span<const Token> ids, const ProfileOptions& options);

/// "21-28,30" -> 21..28, 30: 0-based, inclusive. Throws UsageError.
std::vector<std::int64_t> parse_layers(const std::string& text, std::int64_t depth);

}  // namespace fathom
