// Attention in training (train/kernels/attention.h) by AMX's tiles.
#pragma once

#include <cstdint>

#include "train/kernels/attention.h"

namespace fathom {

/// Whether this machine has tiles and heads fill them.
bool attends_by_tiles(const AttentionForm& form);

/// As the functions of train/kernels/attention.h.
void attention_by_tiles(std::int64_t sequences, const AttentionForm& form, const std::uint16_t* qkv,
                        std::uint16_t* mixed, float* log_sums);
void attention_backward_by_tiles(std::int64_t sequences, const AttentionForm& form, const std::uint16_t* qkv,
                                 const std::uint16_t* mixed, const float* log_sums,
                                 const std::uint16_t* d_mixed, std::uint16_t* d_qkv);

}  // namespace fathom
