// Keys and values into the pages of the cache: bound by memory, no arithmetic.
#include <algorithm>
#include <type_traits>

#include "kernels/bf16.h"
#include "kernels/simd.h"

namespace fathom::simd {

template <typename T>
void store_kv(const KvLayout& layout, const AttentionSpan& span, std::int64_t kv_head, const float* keys,
              const float* values, std::int64_t stride) {
  const auto convert = [](float value) {
    if constexpr (std::is_same_v<T, float>)
      return value;
    else
      return fathom::to_bf16(value);
  };
  for (std::int64_t t = 0; t < span.count;) {
    const std::int64_t position = span.first + t;
    const std::int64_t begin = position % page_positions;
    const std::int64_t count = std::min(page_positions - begin, span.count - t);
    const std::int64_t source = (span.row + t) * stride + kv_head * layout.head_dim;
    T* key_page =
        reinterpret_cast<T*>(span.pages[position / page_positions]) + kv_head * layout.head_elements();
    T* value_page = key_page + layout.kv_heads * layout.head_elements();
    for (std::int64_t d = 0; d < layout.head_dim; ++d)
      for (std::int64_t i = 0; i < count; ++i)
        key_page[paired_index<T>(d, begin + i, page_positions)] = convert(keys[source + i * stride + d]);
    for (std::int64_t i = 0; i < count; ++i)
      for (std::int64_t d = 0; d < layout.head_dim; ++d)
        value_page[paired_index<T>(begin + i, d, layout.padded_dim())] =
            convert(values[source + i * stride + d]);
    t += count;
  }
}

template void store_kv<float>(const KvLayout&, const AttentionSpan&, std::int64_t, const float*, const float*,
                              std::int64_t);
template void store_kv<std::uint16_t>(const KvLayout&, const AttentionSpan&, std::int64_t, const float*,
                                      const float*, std::int64_t);

}  // namespace fathom::simd
