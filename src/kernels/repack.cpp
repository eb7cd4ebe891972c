#include "kernels/repack.h"

#include <algorithm>
#include <numeric>
#include <vector>

#include "base/threads.h"
#include "kernels/bf16.h"
#include "kernels/targets.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/repack.cpp"
#include <hwy/foreach_target.h>
// After foreach_target, as Highway wants it.
#include <hwy/cache_control.h>

#include "kernels/vectors-inl.h"

HWY_BEFORE_NAMESPACE();
namespace fathom::simd::HWY_NAMESPACE {
namespace {

// A word is a pair of bf16, as products read them (packed_matrix.h).

HWY_INLINE hn::Vec<D32> across(const float* a, const float* b) {
  const D32 d32;
  const auto low = bf16_bits(load(a, hn::Lanes(d32))), high = bf16_bits(load(b, hn::Lanes(d32)));
  return hn::Or(hn::ShiftRight<16>(low), high);
}
HWY_INLINE hn::Vec<D32> across(const std::uint16_t* a, const std::uint16_t* b) {
  const auto low = hn::PromoteTo(D32(), hn::LoadU(D16(), a)),
             high = hn::PromoteTo(D32(), hn::LoadU(D16(), b));
  return hn::Or(low, hn::ShiftLeft<16>(high));
}

#if HWY_TARGET == HWY_SCALAR
HWY_INLINE std::uint32_t word(const float* a) { return to_bf16(a[0]) | std::uint32_t{to_bf16(a[1])} << 16; }
HWY_INLINE std::uint32_t word(const std::uint16_t* a) { return a[0] | std::uint32_t{a[1]} << 16; }

// Eight inputs of 16 outputs: four rows of a panel.
template <typename T>
HWY_INLINE void eight_inputs(const T* const* rows, std::int64_t first, std::uint32_t* to) {
  for (std::int64_t pair = 0; pair < 4; ++pair)
    for (std::int64_t r = 0; r < panel_outputs; ++r)
      to[pair * panel_outputs + r] = word(rows[r] + first + 2 * pair);
}
#else
// Four words are a quad: 4 x 4 words change places in 8 instructions.
using Words = hn::FixedTag<std::uint32_t, 4>;
using Quad = hn::Vec<Words>;

// As bf16_bits (vectors-inl.h).
HWY_INLINE Quad rounded(const float* from) {
  const Words words;
  const auto bits = hn::BitCast(words, hn::LoadU(hn::FixedTag<float, 4>(), from));
  const auto odd = hn::And(hn::ShiftRight<16>(bits), hn::Set(words, 1));
  const auto nearest = hn::Add(bits, hn::Add(odd, hn::Set(words, 0x7fff)));
  const auto nan = hn::Gt(hn::And(bits, hn::Set(words, 0x7fffffff)), hn::Set(words, 0x7f800000));
  return hn::IfThenElse(nan, hn::Or(bits, hn::Set(words, 0x400000)), nearest);
}
// (a[0], a[1]), (a[2], a[3]), ...
HWY_INLINE Quad along(const float* a) {
  const Quad first = rounded(a), second = rounded(a + 4);
  const auto high = hn::And(hn::ConcatOdd(Words(), second, first), hn::Set(Words(), 0xffff0000U));
  return hn::Or(hn::ShiftRight<16>(hn::ConcatEven(Words(), second, first)), high);
}
HWY_INLINE Quad along(const std::uint16_t* a) {
  return hn::LoadU(Words(), reinterpret_cast<const std::uint32_t*>(a));
}

HWY_INLINE void turn(Quad& a, Quad& b, Quad& c, Quad& d) {
  const Words words;
  const hn::RepartitionToWide<Words> doubles;
  const auto ab = hn::BitCast(doubles, hn::InterleaveLower(words, a, b));
  const auto cd = hn::BitCast(doubles, hn::InterleaveLower(words, c, d));
  const auto upper_ab = hn::BitCast(doubles, hn::InterleaveUpper(words, a, b));
  const auto upper_cd = hn::BitCast(doubles, hn::InterleaveUpper(words, c, d));
  a = hn::BitCast(words, hn::InterleaveLower(doubles, ab, cd));
  b = hn::BitCast(words, hn::InterleaveUpper(doubles, ab, cd));
  c = hn::BitCast(words, hn::InterleaveLower(doubles, upper_ab, upper_cd));
  d = hn::BitCast(words, hn::InterleaveUpper(doubles, upper_ab, upper_cd));
}

// Eight inputs of 16 outputs: four rows of a panel.
template <typename T>
HWY_INLINE void eight_inputs(const T* const* rows, std::int64_t first, std::uint32_t* to) {
  for (std::int64_t r = 0; r < panel_outputs; r += 4) {
    Quad a = along(rows[r] + first), b = along(rows[r + 1] + first);
    Quad c = along(rows[r + 2] + first), d = along(rows[r + 3] + first);
    turn(a, b, c, d);
    hn::StoreU(a, Words(), to + r);
    hn::StoreU(b, Words(), to + panel_outputs + r);
    hn::StoreU(c, Words(), to + 2 * panel_outputs + r);
    hn::StoreU(d, Words(), to + 3 * panel_outputs + r);
  }
}

// 8 x 8 halves, whose rows are `from_stride` and `stride` apart.
HWY_INLINE void eight_by_eight(const std::uint16_t* from, std::int64_t from_stride, std::uint16_t* to,
                               std::int64_t stride) {
  const hn::Repartition<std::uint16_t, Words> halves;
  Quad lower[4], upper[4];
  for (int pair = 0; pair < 4; ++pair) {
    const auto a = hn::LoadU(halves, from + 2 * pair * from_stride);
    const auto b = hn::LoadU(halves, from + (2 * pair + 1) * from_stride);
    lower[pair] = hn::BitCast(Words(), hn::InterleaveLower(halves, a, b));
    upper[pair] = hn::BitCast(Words(), hn::InterleaveUpper(halves, a, b));
  }
  turn(lower[0], lower[1], lower[2], lower[3]);
  turn(upper[0], upper[1], upper[2], upper[3]);
  for (int c = 0; c < 4; ++c) {
    hn::StoreU(hn::BitCast(halves, lower[c]), halves, to + c * stride);
    hn::StoreU(hn::BitCast(halves, upper[c]), halves, to + (c + 4) * stride);
  }
}
#endif

// Brings the line of `column` of some rows into the cache where a new one begins: rows are more streams than
// the processor itself follows.
template <typename T>
HWY_INLINE void fetch(const T* const* rows, std::int64_t count, std::int64_t column) {
  if (column % static_cast<std::int64_t>(64 / sizeof(T)) != 0) return;
  for (std::int64_t r = 0; r < count; ++r) hwy::Prefetch(rows[r] + column);
}

// The 16 rows after these come next.
template <typename T>
void panel_of_rows(const T* const* rows, std::int64_t columns, std::int64_t padded, std::uint32_t* to) {
  std::int64_t i = 0;
  for (; i + 8 <= columns; i += 8) {
    fetch(rows + panel_outputs, panel_outputs, i);
    eight_inputs(rows, i, to + i / 2 * panel_outputs);
  }
  for (; i < padded; i += 8) {
    T rest[panel_outputs][8] = {};
    const T* ends[panel_outputs];
    for (std::int64_t r = 0; r < panel_outputs; ++r) {
      for (std::int64_t c = i; c < columns; ++c) rest[r][c - i] = rows[r][c];
      ends[r] = rest[r];
    }
    eight_inputs(ends, 0, to + i / 2 * panel_outputs);
  }
}

// `pairs` pairs of rows, all columns, to the same rows of each panel. As many rows after these come next.
template <typename T>
void pairs_of_rows(const T* const* rows, std::int64_t pairs, std::int64_t columns, std::int64_t panel_words,
                   std::uint32_t* to) {
  const auto lanes = static_cast<std::int64_t>(hn::Lanes(D32()));
  for (std::int64_t first = 0; first < columns; first += panel_outputs, to += panel_words) {
    const std::int64_t count = columns - first < panel_outputs ? columns - first : panel_outputs;
    fetch(rows + 2 * pairs, 2 * pairs, first);
    for (std::int64_t pair = 0; pair < pairs; ++pair) {
      const T *a = rows[2 * pair] + first, *b = rows[2 * pair + 1] + first;
      T rest[2][panel_outputs] = {};
      if (count < panel_outputs) {
        for (std::int64_t c = 0; c < count; ++c) rest[0][c] = a[c], rest[1][c] = b[c];
        a = rest[0];
        b = rest[1];
      }
      for (std::int64_t c = 0; c < panel_outputs; c += lanes)
        hn::StoreU(across(a + c, b + c), D32(), to + pair * panel_outputs + c);
    }
  }
}

}  // namespace

void panel_of_floats(const float* const* rows, std::int64_t columns, std::int64_t padded, std::uint32_t* to) {
  panel_of_rows(rows, columns, padded, to);
}
void panel_of_halves(const std::uint16_t* const* rows, std::int64_t columns, std::int64_t padded,
                     std::uint32_t* to) {
  panel_of_rows(rows, columns, padded, to);
}
void pairs_of_floats(const float* const* rows, std::int64_t pairs, std::int64_t columns,
                     std::int64_t panel_words, std::uint32_t* to) {
  pairs_of_rows(rows, pairs, columns, panel_words, to);
}
void pairs_of_halves(const std::uint16_t* const* rows, std::int64_t pairs, std::int64_t columns,
                     std::int64_t panel_words, std::uint32_t* to) {
  pairs_of_rows(rows, pairs, columns, panel_words, to);
}

// Rows [first, first + count). A whole line of eight rows at a time: rows may be so far apart that no more of
// their lines have room in the L1 cache together.
void transpose_rows(const DenseMatrix& from, std::int64_t first, std::int64_t count, std::uint16_t* to,
                    std::int64_t stride) {
  const auto* rows = static_cast<const std::uint16_t*>(from.data);
  const auto one_by_one = [&](std::int64_t row, std::int64_t column, std::int64_t columns) {
    for (std::int64_t c = column; c < column + columns; ++c)
      for (std::int64_t r = row; r < first + count; ++r) to[c * stride + r] = rows[r * from.stride + c];
  };
  std::int64_t column = 0;
#if HWY_TARGET != HWY_SCALAR
  constexpr std::int64_t line = 32;
  while (column + 8 <= from.columns) {
    const std::int64_t columns = from.columns - column < line ? (from.columns - column) / 8 * 8 : line;
    std::int64_t row = first;
    for (; row + 8 <= first + count; row += 8)
      for (std::int64_t c = column; c < column + columns; c += 8)
        eight_by_eight(rows + row * from.stride + c, from.stride, to + c * stride + row, stride);
    one_by_one(row, column, columns);
    column += columns;
  }
#endif
  one_by_one(first, column, from.columns - column);
}

}  // namespace fathom::simd::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace fathom {
namespace simd {
HWY_EXPORT(panel_of_floats);
HWY_EXPORT(panel_of_halves);
HWY_EXPORT(pairs_of_floats);
HWY_EXPORT(pairs_of_halves);
HWY_EXPORT(transpose_rows);
}  // namespace simd

namespace {

void prepare(PackedMatrix& packed, std::int64_t out, std::int64_t in) {
  packed.type = Compute::bf16;
  packed.gated = false;
  packed.out = out;
  packed.in = in;
  packed.padded_in = (in + 31) / 32 * 32;
  packed.data.reserve(static_cast<std::size_t>(packed.panels() * packed.panel_bytes()));
}

std::int64_t all_rows(std::span<const DenseMatrix> parts) {
  return std::accumulate(parts.begin(), parts.end(), std::int64_t{0},
                         [](std::int64_t sum, const DenseMatrix& part) { return sum + part.rows; });
}

/// Where the parts' rows begin, `padded` of them and 16 that are only fetched; those behind the last are
/// zeros.
template <typename T>
std::vector<const T*> row_pointers(std::span<const DenseMatrix> parts, std::int64_t padded, const T* zeros) {
  std::vector<const T*> rows;
  padded += 16;
  rows.reserve(static_cast<std::size_t>(padded));
  for (const DenseMatrix& part : parts)
    for (std::int64_t r = 0; r < part.rows; ++r)
      rows.push_back(static_cast<const T*>(part.data) + r * part.stride);
  rows.resize(static_cast<std::size_t>(padded), zeros);
  return rows;
}

template <typename T, typename Pack>
void pack_rows_of(std::span<const DenseMatrix> parts, PackedMatrix& packed, const Pack& pack) {
  const std::vector<T> zeros(static_cast<std::size_t>(packed.in));
  const auto rows = row_pointers<T>(parts, packed.panels() * panel_outputs, zeros.data());
  parallel_for(packed.panels(), [&](std::int64_t panel) {
    auto* to = reinterpret_cast<std::uint32_t*>(packed.data.as<std::byte>() + panel * packed.panel_bytes());
    pack(rows.data() + panel * panel_outputs, packed.in, packed.padded_in, to);
  });
}

template <typename T, typename Pack>
void pack_columns_of(std::span<const DenseMatrix> parts, PackedMatrix& packed, const Pack& pack) {
  const std::vector<T> zeros(static_cast<std::size_t>(packed.out));
  const auto rows = row_pointers<T>(parts, packed.padded_in, zeros.data());
  // 8 pairs at a time: 512 bytes of each panel, while the lines that 16 rows are read from stay in the L1
  // cache from one panel to the next.
  constexpr std::int64_t together = 8;
  parallel_for(packed.padded_in / 2 / together, [&](std::int64_t block) {
    const std::int64_t pair = block * together;
    pack(rows.data() + 2 * pair, together, packed.out, packed.panel_bytes() / 4,
         packed.data.as<std::uint32_t>() + pair * panel_outputs);
  });
}

}  // namespace

void pack_rows(std::span<const DenseMatrix> parts, PackedMatrix& packed) {
  using namespace simd;
  prepare(packed, all_rows(parts), parts.front().columns);
  if (parts.front().type == Compute::f32)
    pack_rows_of<float>(parts, packed, [](auto... of) { HWY_DYNAMIC_DISPATCH(panel_of_floats)(of...); });
  else
    pack_rows_of<std::uint16_t>(parts, packed, [](auto... of) {
      HWY_DYNAMIC_DISPATCH(panel_of_halves)(of...);
    });
}

void pack_columns(std::span<const DenseMatrix> parts, PackedMatrix& packed) {
  using namespace simd;
  prepare(packed, parts.front().columns, all_rows(parts));
  if (parts.front().type == Compute::f32)
    pack_columns_of<float>(parts, packed, [](auto... of) { HWY_DYNAMIC_DISPATCH(pairs_of_floats)(of...); });
  else
    pack_columns_of<std::uint16_t>(parts, packed, [](auto... of) {
      HWY_DYNAMIC_DISPATCH(pairs_of_halves)(of...);
    });
}

void transpose(const DenseMatrix& from, std::uint16_t* to, std::int64_t stride) {
  using namespace simd;
  // 32 rows at a time: whole lines of what is written.
  constexpr std::int64_t together = 32;
  parallel_for((from.rows + together - 1) / together, [&](std::int64_t block) {
    const std::int64_t first = block * together;
    HWY_DYNAMIC_DISPATCH(transpose_rows)(from, first, std::min(together, from.rows - first), to, stride);
  });
}

}  // namespace fathom
#endif  // HWY_ONCE
