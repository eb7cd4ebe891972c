// Norm gains moved into the matrices that read the norm's output. It changes nothing in what a layer computes
// (W (g * x) = (W diag(g)) x), and layers that are tied afterwards need not agree on the gains.
#pragma once

#include <string>
#include <vector>

#include "depth/linear_algebra.h"
#include "model/checkpoint.h"

namespace fathom {

/// True for the norms before q, k, v and before gate, up. Those after a branch, and those of each head of q
/// and k, are followed by something that is not linear (a residual sum, the rotation), and cannot be moved.
bool is_foldable(const ModelConfig& config, const std::string& norm);

/// The gain of the norm whose output a linear map reads, [in]; empty for o and down, which no norm precedes.
std::vector<float> gain_before(const Checkpoint& checkpoint, std::int64_t layer, Linear linear);

/// The weight of a linear map, [out, in], its columns times the gain of the norm before it, if there is one.
Matrix folded_weight(const Checkpoint& checkpoint, std::int64_t layer, Linear linear);

/// What a norm's weight is once its gain has been moved away: 1, or 0 where the gain is 1 + w.
float neutral_norm(const ModelConfig& config);

}  // namespace fathom
