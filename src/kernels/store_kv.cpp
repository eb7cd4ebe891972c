// Keys and values into the pages of the cache: bound by memory, no arithmetic.
#include <algorithm>
#include <cstring>
#include <span>
#include <type_traits>
#include <vector>

#include "kernels/simd.h"

namespace fathom::simd {

template <typename T>
void store_kv(const KvLayout& layout, const AttentionSpan& span, std::int64_t kv_head, const float* keys,
              const float* values, std::int64_t stride) {
  const auto width = static_cast<std::size_t>(layout.head_dim);
  // Row by row: a row's values lie together, while those of one dimension are a whole row of the batch apart.
  const auto converted = [width](const float* row, std::span<T> to) {
    if constexpr (std::is_same_v<T, float>)
      std::copy_n(row, width, to.begin());
    else
      to_bf16(width, row, to.data());
  };
  constexpr std::int64_t per_word = 4 / sizeof(T);
  const std::int64_t words = (layout.head_dim + per_word - 1) / per_word;
  std::vector<T> row(static_cast<std::size_t>(words * per_word));
  for (std::int64_t t = 0; t < span.count; ++t) {
    const std::int64_t position = (span.first + t) % page_positions;
    const std::int64_t source = (span.row + t) * stride + kv_head * layout.head_dim;
    T* key_page = reinterpret_cast<T*>(span.pages[(span.first + t) / page_positions]) +
                  kv_head * layout.head_elements();
    T* value_page = key_page + layout.kv_heads * layout.head_elements();
    converted(keys + source, row);
    // Neighbouring dimensions that are interleaved (bf16) travel as one 32-bit word.
    for (std::int64_t d = 0; d < words; ++d)
      std::memcpy(key_page + (d * page_positions + position) * per_word, row.data() + d * per_word, 4);
    converted(values + source, row);
    T* value_row = value_page + position / per_word * layout.padded_dim() * per_word + position % per_word;
    for (std::int64_t d = 0; d < layout.head_dim; ++d)
      value_row[d * per_word] = row[static_cast<std::size_t>(d)];
  }
}

void fetch_kv(const KvLayout& layout, const AttentionSpan& span) {
  const std::int64_t element = layout.type == Compute::f32 ? 4 : 2, position = span.first % page_positions;
  const std::byte* page = span.pages[span.first / page_positions];
  for (std::int64_t head = 0; head < layout.kv_heads; ++head) {
    const std::byte* keys = page + head * layout.head_elements() * element;
    const std::byte* values = keys + layout.kv_heads * layout.head_elements() * element;
    for (std::int64_t d = 0; d < layout.head_dim; d += 4 / element)
      __builtin_prefetch(keys + d * page_positions * element + position * 4, 1);
    const std::int64_t row = layout.padded_dim() * 4;
    for (std::int64_t byte = 0; byte < row; byte += 64)
      __builtin_prefetch(values + position / (4 / element) * row + byte, 1);
  }
}

template void store_kv<float>(const KvLayout&, const AttentionSpan&, std::int64_t, const float*, const float*,
                              std::int64_t);
template void store_kv<std::uint16_t>(const KvLayout&, const AttentionSpan&, std::int64_t, const float*,
                                      const float*, std::int64_t);

}  // namespace fathom::simd
