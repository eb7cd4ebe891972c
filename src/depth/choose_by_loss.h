// Which visits to drop, by what dropping them does to the loss.
#pragma once

#include <cstdint>
#include <span>

#include "depth/prune.h"

namespace fathom {

/// Greedy: `count` times the visit without which the text's loss is least. That is about count * depth runs
/// of the text, so only the first sixteenth of options.max_tokens is used (2,048 tokens by default, one
/// window at least). Shows a progress bar. Throws Error when the text is shorter than one window.
VisitChoice choose_by_loss(const Checkpoint& checkpoint, std::int64_t count, std::span<const Token> ids,
                           const ProfileOptions& options);

}  // namespace fathom
