// Keys and values into the pages of the cache: bound by memory, no arithmetic.
#include <algorithm>
#include <cstring>
#include <type_traits>
#include <vector>

#include "kernels/simd.h"

namespace fathom::simd {

namespace {

// One row of floats in the cache's type, contiguous. `memory` is kept: a token's key is stored in less time
// than memory is found.
template <typename T>
class ConvertedRow {
 public:
  struct Memory {
    std::vector<T> row;
    std::vector<std::int8_t> tiles;  // as to_int8 writes a row: 64 bytes of each tile of 1 KB
  };
  ConvertedRow(const KvLayout& layout, Memory& memory)
      : width_(static_cast<std::size_t>(layout.head_dim)),
        padded_(static_cast<std::size_t>(layout.padded_dim())),
        row_(memory.row),
        tiles_(memory.tiles) {
    row_.assign(padded_, T{0});
    if (std::is_same_v<T, std::int8_t>) tiles_.resize(padded_ * 16);
  }

  /// Returns the scale, 1 where the type has none.
  float convert(const float* row) {
    if constexpr (std::is_same_v<T, std::int8_t>) {
      const float scale = to_int8(width_, padded_, row, tiles_.data());
      for (std::size_t d = 0; d < padded_; d += 64) std::copy_n(tiles_.data() + d * 16, 64, row_.data() + d);
      return scale;
    } else if constexpr (std::is_same_v<T, float>) {
      std::copy_n(row, width_, row_.data());
    } else {
      activations_to_bf16(width_, row, row_.data());
    }
    return 1;
  }
  const T* data() const { return row_.data(); }

 private:
  std::size_t width_, padded_;
  std::vector<T>& row_;
  std::vector<std::int8_t>& tiles_;
};

// One head's keys or values of up to two neighbouring positions, the first of which is even where there are
// two: then they share a page, and what lies beside each other of them is written at once.
template <typename T>
class Stored {
 public:
  explicit Stored(const KvLayout& layout)
      : layout_(layout), rows_{{layout, memory[0]}, {layout, memory[1]}} {}

  template <std::int64_t count>
  void keys(std::byte* page, std::int64_t position, const float* from, std::int64_t stride) {
    convert(page, position, count, from, stride);
    std::byte* to = page + position * 4;
    for (std::int64_t d = 0; d < layout_.head_dim; d += per_word, to += page_positions * 4) {
      std::uint32_t words[count];
      for (std::int64_t i = 0; i < count; ++i) std::memcpy(&words[i], rows_[i].data() + d, 4);
      std::memcpy(to, words, sizeof words);
    }
  }
  template <std::int64_t count>
  void values(std::byte* page, std::int64_t position, const float* from, std::int64_t stride) {
    convert(page, position, count, from, stride);
    // Neighbouring rows that are interleaved travel as one 32-bit word.
    T* to = reinterpret_cast<T*>(page) + position / per_word * layout_.padded_dim() * per_word +
            position % per_word;
    const std::int64_t next = per_word > 1 ? 1 : layout_.padded_dim();  // from a position to its neighbour
    const T *first = rows_[0].data(), *last = rows_[count - 1].data();
    for (std::int64_t d = 0; d < layout_.head_dim; ++d, to += per_word) {
      to[0] = first[d];
      to[(count - 1) * next] = last[d];
    }
  }

 private:
  static constexpr std::int64_t per_word = 4 / sizeof(T);

  void convert(std::byte* page, std::int64_t position, std::int64_t count, const float* from,
               std::int64_t stride) {
    for (std::int64_t i = 0; i < count; ++i) {
      const float scale = rows_[i].convert(from + i * stride);
      if constexpr (sizeof(T) == 1)
        reinterpret_cast<float*>(page + layout_.head_elements())[position + i] = scale;
    }
  }

  static thread_local typename ConvertedRow<T>::Memory memory[2];
  const KvLayout& layout_;
  ConvertedRow<T> rows_[2];
};

template <typename T>
thread_local typename ConvertedRow<T>::Memory Stored<T>::memory[2];

template <typename T>
void store(const KvLayout& layout, const AttentionSpan& span, std::int64_t kv_head, const float* keys,
           const float* values, std::int64_t stride) {
  Stored<T> stored(layout);
  // Row by row: a row's values lie together, while those of one dimension are a whole row of the batch apart.
  for (std::int64_t t = 0; t < span.count;) {
    const std::int64_t position = (span.first + t) % page_positions;
    const std::int64_t source = (span.row + t) * stride + kv_head * layout.head_dim;
    std::byte* key_page = span.pages[(span.first + t) / page_positions] + kv_head * layout.head_bytes();
    std::byte* value_page = key_page + layout.kv_heads * layout.head_bytes();
    if (position % 2 == 0 && t + 1 < span.count) {
      stored.template keys<2>(key_page, position, keys + source, stride);
      stored.template values<2>(value_page, position, values + source, stride);
      t += 2;
    } else {
      stored.template keys<1>(key_page, position, keys + source, stride);
      stored.template values<1>(value_page, position, values + source, stride);
      ++t;
    }
  }
}

}  // namespace

void store_kv(const KvLayout& layout, const AttentionSpan& span, std::int64_t kv_head, const float* keys,
              const float* values, std::int64_t stride) {
  const auto run = layout.type == Compute::f32    ? store<float>
                   : layout.type == Compute::bf16 ? store<std::uint16_t>
                                                  : store<std::int8_t>;
  run(layout, span, kv_head, keys, values, stride);
}

}  // namespace fathom::simd

namespace fathom {

void copy_kv(const KvLayout& layout, const std::byte* from, std::int64_t entry, std::byte* to,
             std::int64_t target) {
  const std::int64_t bytes = layout.element_bytes(), per_word = 4 / bytes, padded = layout.padded_dim();
  const auto copy = [&](std::int64_t at, std::int64_t of_entry, std::int64_t of_target, std::int64_t count) {
    std::memcpy(to + at + of_target, from + at + of_entry, static_cast<std::size_t>(count));
  };
  const auto value = [&](std::int64_t position, std::int64_t d) {
    return (position / per_word * padded * per_word + position % per_word + d * per_word) * bytes;
  };
  for (std::int64_t head = 0; head < layout.kv_heads; ++head) {
    const std::int64_t keys = head * layout.head_bytes(),
                       values = keys + layout.kv_heads * layout.head_bytes();
    for (std::int64_t word = 0; word < padded / per_word; ++word)
      copy(keys + word * page_positions * 4, entry * 4, target * 4, 4);
    for (std::int64_t d = 0; d < padded; ++d) copy(values, value(entry, d), value(target, d), bytes);
    if (layout.type != Compute::int8) continue;
    for (const std::int64_t scales : {keys + layout.head_elements(), values + layout.head_elements()})
      copy(scales, entry * 4, target * 4, 4);
  }
}

}  // namespace fathom
