// What training's attention shares out among the threads, whatever computes it.
#pragma once

#include <atomic>
#include <cstdint>

#include "base/threads.h"
#include "kernels/simd.h"
#include "train/kernels/attention.h"

namespace fathom {

/// One KV head of one sequence, with the query heads that share it: where their rows lie.
class AttentionUnit {
 public:
  /// `form` must outlive it.
  AttentionUnit(const AttentionForm& form, std::int64_t index)
      : form_(form),
        group_(form.heads / form.kv_heads),
        row_(index / form.kv_heads * form.positions),
        kv_head_(index % form.kv_heads) {}

  const AttentionForm& form() const { return form_; }
  std::int64_t first_head() const { return kv_head_ * group_; }
  std::int64_t last_head() const { return first_head() + group_; }

  /// Where its rows of queries, keys or values begin in qkv, or in what is laid out like it.
  std::int64_t query(std::int64_t head) const { return row_ * form_.qkv_width() + head * form_.head_dim; }
  std::int64_t key() const { return query(form_.heads + kv_head_); }
  std::int64_t value() const { return query(form_.heads + form_.kv_heads + kv_head_); }
  /// The same in what is laid out like `mixed`, and like log_sums.
  std::int64_t mixed(std::int64_t head) const { return row_ * mixed_width() + head * form_.head_dim; }
  std::int64_t mixed_width() const { return form_.heads * form_.head_dim; }
  std::int64_t log_sum(std::int64_t head) const { return row_ * form_.heads + head; }

 private:
  const AttentionForm& form_;
  std::int64_t group_, row_, kv_head_;
};

/// Calls body(Unit(form, index)) for each unit, on all threads.
template <typename Unit, typename Body>
void each_unit(std::int64_t sequences, const AttentionForm& form, const Body& body) {
  std::atomic<std::int64_t> next = 0;
  on_each_thread([&](int, int) {
    for (std::int64_t i = next++; i < sequences * form.kv_heads; i = next++) body(Unit(form, i));
  });
}

/// from[rows, width] to bf16, rows `stride` values apart.
inline void round_rows(std::int64_t rows, std::int64_t width, const float* from, std::uint16_t* to,
                       std::int64_t stride) {
  for (std::int64_t r = 0; r < rows; ++r)
    simd::activations_to_bf16(static_cast<std::size_t>(width), from + r * width, to + r * stride);
}

}  // namespace fathom
