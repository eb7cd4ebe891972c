// Causal attention and its way back for training in bfloat16: 128 queries times 128 keys at a time, which
// stay in a core's cache; the products are the runtime's kernels' (multiply.h), or where heads fill AMX's
// tiles those of attention_tiles.h. The way back computes the scores again from their row sums (Dao 2023,
// FlashAttention-2, arXiv 2307.08691, algorithms 1 and 2).
#pragma once

#include <cstdint>

namespace fathom {

struct AttentionForm {
  std::int64_t heads = 0, kv_heads = 0, head_dim = 0, positions = 0;
  double scale = 1;
  std::int64_t window = 0;  ///< a token sees itself and the window - 1 before it; 0: all
  double softcap = 0;       ///< c: scores s become c tanh(s / c); 0: none

  std::int64_t qkv_width() const { return (heads + 2 * kv_heads) * head_dim; }
};

/// From qkv [sequences * positions, qkv_width] to mixed [.., heads * head_dim] and, for each row and head,
/// the logarithm of the sum of e^score: log_sums [.., heads]. Without soft cap.
void attention(std::int64_t sequences, const AttentionForm& form, const std::uint16_t* qkv,
               std::uint16_t* mixed, float* log_sums);

/// From the gradient of `mixed` to d_qkv.
void attention_backward(std::int64_t sequences, const AttentionForm& form, const std::uint16_t* qkv,
                        const std::uint16_t* mixed, const float* log_sums, const std::uint16_t* d_mixed,
                        std::uint16_t* d_qkv);

}  // namespace fathom
