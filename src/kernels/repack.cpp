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

#include "kernels/turn-inl.h"
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

// Brings rows that come next into the L2 cache one after the other: in order, the processor joins in and runs
// ahead, where the lines of 16 rows in turn are a miss each, 16 of which a core has under way: 5.6 GB/s.
class NextRows {
 public:
  // `bytes` of each of `count` rows, in `steps` steps.
  template <typename T>
  NextRows(const T* const* rows, std::int64_t count, std::int64_t columns, std::int64_t steps)
      : rows_(reinterpret_cast<const void* const*>(rows)),
        left_(count),
        bytes_(columns * static_cast<std::int64_t>(sizeof(T))),
        a_step_((count * ((bytes_ + 63) / 64) + steps - 1) / steps) {}

  HWY_INLINE void step() {
    for (std::int64_t i = 0; i < a_step_ && left_ > 0; ++i) {
#if HWY_ARCH_X86
      _mm_prefetch(static_cast<const char*>(*rows_) + byte_, _MM_HINT_T1);
#else
      hwy::Prefetch(static_cast<const char*>(*rows_) + byte_);
#endif
      if ((byte_ += 64) < bytes_) continue;
      byte_ = 0;
      ++rows_;
      --left_;
    }
  }

 private:
  const void* const* rows_;
  std::int64_t left_, bytes_, a_step_, byte_ = 0;
};

// `count` neighbours of a row as words, two in each, followed by zeros to a row of a square.
template <typename T>
HWY_INLINE void words_along(const T* row, std::int64_t count, std::uint32_t* to) {
  const auto lanes = static_cast<std::int64_t>(hn::Lanes(D()));
  auto* halves = reinterpret_cast<std::uint16_t*>(to);
  if constexpr (sizeof(T) == 2) {
    std::fill_n(to, side, 0U);
    std::copy_n(row, count, halves);
  } else {
    for (std::int64_t c = 0; c < 2 * side; c += lanes)
      store(c + lanes <= count ? hn::LoadU(D(), row + c)
            : c < count        ? load(row + c, count - c)
                               : hn::Zero(D()),
            halves + c, static_cast<std::size_t>(lanes));
  }
}

// The 16 rows after these come next.
template <typename T>
void panel_of_rows(const T* const* rows, std::int64_t columns, std::int64_t padded, std::uint32_t* to) {
  NextRows next(rows + panel_outputs, panel_outputs, columns, padded / 32);
  Square square;
  for (std::int64_t i = 0; i < padded; i += 2 * side, to += side * side) {
    next.step();
    for (std::int64_t r = 0; r < side; ++r)
      words_along(rows[r] + i, std::min(columns - i, 2 * side), square.words[r]);
    turn(square, to, side);
  }
}

// `pairs` pairs of rows, all columns, to the same rows of each panel. As many rows after these come next.
template <typename T>
void pairs_of_rows(const T* const* rows, std::int64_t pairs, std::int64_t columns, std::int64_t panel_words,
                   std::uint32_t* to) {
  const auto lanes = static_cast<std::int64_t>(hn::Lanes(D32()));
  NextRows next(rows + 2 * pairs, 2 * pairs, columns, (columns + panel_outputs - 1) / panel_outputs);
  for (std::int64_t first = 0; first < columns; first += panel_outputs, to += panel_words) {
    const std::int64_t count = columns - first < panel_outputs ? columns - first : panel_outputs;
    next.step();
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

// One beside the other, since two neighbouring lines go to memory together.
HWY_INLINE void stream_square(const Square& square, std::uint32_t* to) {
  const auto lanes = static_cast<std::int64_t>(hn::Lanes(D32()));
  for (std::int64_t i = 0; i < side * side; i += lanes)
    hn::Stream(hn::Load(D32(), square.words[0] + i), D32(), to + i);
}

}  // namespace

void part_of_rows(const float* from, std::int64_t stride, std::int64_t columns, std::int64_t panel_words,
                  std::uint32_t* to) {
  Square square, turned;
  for (std::int64_t half = 0; half < 2; ++half) {
    for (std::int64_t i = 0; i < columns; i += 2 * side) {
      for (std::int64_t r = 0; r < side; ++r)
        words_along(from + (half * side + r) * stride + i, std::min(columns - i, 2 * side), square.words[r]);
      turn(square, turned.words[0], side);
      stream_square(turned, to + half * panel_words + i / 2 * panel_outputs);
    }
  }
}

void part_of_columns(const float* from, std::int64_t stride, std::int64_t columns, std::int64_t panel_words,
                     std::uint32_t* to) {
  const auto lanes = static_cast<std::int64_t>(hn::Lanes(D32()));
  Square square;
  for (std::int64_t first = 0; first < columns; first += panel_outputs, to += panel_words) {
    for (std::int64_t pair = 0; pair < side; ++pair) {
      const float *a = from + 2 * pair * stride + first, *b = a + stride;
      float rest[2][panel_outputs] = {};
      if (columns - first < panel_outputs) {
        std::copy_n(a, columns - first, rest[0]);
        std::copy_n(b, columns - first, rest[1]);
        a = rest[0];
        b = rest[1];
      }
      for (std::int64_t c = 0; c < panel_outputs; c += lanes)
        hn::Store(across(a + c, b + c), D32(), &square.words[pair][c]);
    }
    stream_square(square, to);
  }
}

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

// Rows [first, first + count), at most 32 of them.
void transpose_rows(const DenseMatrix& from, std::int64_t first, std::int64_t count, std::uint16_t* to,
                    std::int64_t stride) {
  constexpr std::int64_t together = 2 * side;
  const std::uint16_t* rows[2 * together];
  const std::int64_t following = std::min(together, from.rows - first - count);
  for (std::int64_t r = 0; r < count + following; ++r)
    rows[r] = static_cast<const std::uint16_t*>(from.data) + (first + r) * from.stride;
  NextRows next(rows + count, following, from.columns, (from.columns + side - 1) / side);
  const auto lanes = static_cast<std::int64_t>(hn::Lanes(D32()));
  std::int64_t column = 0;
  if (count == together) {
    Square square;
    for (; column + side <= from.columns; column += side) {
      next.step();
      for (std::int64_t pair = 0; pair < side; ++pair)
        for (std::int64_t c = 0; c < side; c += lanes)
          hn::Store(across(rows[2 * pair] + column + c, rows[2 * pair + 1] + column + c), D32(),
                    &square.words[pair][c]);
      turn(square, reinterpret_cast<std::uint32_t*>(to + column * stride + first), stride / 2);
    }
  }
  for (; column < from.columns; ++column)
    for (std::int64_t r = 0; r < count; ++r) to[column * stride + first + r] = rows[r][column];
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
HWY_EXPORT(part_of_rows);
HWY_EXPORT(part_of_columns);
}  // namespace simd

namespace {

void prepare(PackedMatrix& packed, std::int64_t out, std::int64_t in) {
  packed.type = Compute::bf16;
  packed.gated = false;
  packed.out = out;
  packed.in = in;
  packed.padded_in = (in + 31) / 32 * 32;
  const auto bytes = static_cast<std::size_t>(packed.panels() * packed.panel_bytes());
  if (packed.data.size() < bytes) packed.data = AlignedBuffer::unwritten(bytes);
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

void repack_rows(const DenseMatrix& matrix, const MatrixPart& part, std::int64_t row, PackedMatrix& packed) {
  using namespace simd;
  const auto* from = static_cast<const float*>(matrix.data) + part.row * matrix.stride + part.column;
  auto* to = packed.data.as<std::uint32_t>() +
             ((row + part.row) / panel_outputs * packed.padded_in + part.column) / 2 * panel_outputs;
  HWY_DYNAMIC_DISPATCH(part_of_rows)(from, matrix.stride, part.columns, packed.panel_bytes() / 4, to);
  hwy::FlushStream();
}

void repack_columns(const DenseMatrix& matrix, const MatrixPart& part, std::int64_t row,
                    PackedMatrix& packed) {
  using namespace simd;
  const auto* from = static_cast<const float*>(matrix.data) + part.row * matrix.stride + part.column;
  auto* to = packed.data.as<std::uint32_t>() +
             (part.column / panel_outputs * packed.padded_in + row + part.row) / 2 * panel_outputs;
  HWY_DYNAMIC_DISPATCH(part_of_columns)(from, matrix.stride, part.columns, packed.panel_bytes() / 4, to);
  hwy::FlushStream();
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
