// Which hidden states of the student answer to which of the teacher's (train/ops/hidden_loss.h).
#pragma once

#include <string>
#include <vector>

#include "model/checkpoint.h"
#include "train/train.h"

namespace fathom {

/// Pairs of visits after which the residual streams are compared. "auto": the seams that `prune` left (from
/// the student's provenance), or every visit of a student as deep as its teacher; else pairs such as
/// "11:15,12:16", the student's first. Throws UsageError.
std::vector<HiddenPair> parse_hidden_pairs(const std::string& text, const Checkpoint& student,
                                           const Checkpoint& teacher);

}  // namespace fathom
