// The inner product of product_floats.cpp and attention.cpp: rows of floats times a matrix of float32, paired
// bf16 (packed_matrix.h) or quads of int8 (the cache's), in tiles that stay in registers. Included once for
// each instruction set.

#if defined(FATHOM_PRODUCT_TILE_INL_H) == defined(HWY_TARGET_TOGGLE)
#ifdef FATHOM_PRODUCT_TILE_INL_H
#undef FATHOM_PRODUCT_TILE_INL_H
#else
#define FATHOM_PRODUCT_TILE_INL_H
#endif

#include <hwy/highway.h>

#include <cstddef>
#include <cstdint>

HWY_BEFORE_NAMESPACE();
namespace fathom::simd::HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;
using D = hn::ScalableTag<float>;

// Rows and vectors of a tile: 6 x 4 sums, 4 vectors of b and one broadcast fill the 32 registers of AVX-512
// and NEON, 6 x 2 the 16 of AVX2. 24 (12) independent sums are more than enough to hide the 4 cycles of a
// fused multiply-add.
inline constexpr std::size_t tile_rows = 6;
inline constexpr std::size_t tile_vectors = HWY_TARGET <= HWY_AVX3 || HWY_ARCH_ARM_A64 ? 4 : 2;

// sums[r][v] += a[r lda] w(v). Where registers hold all w(v) beside the sums each value of a is broadcast
// once.
template <std::size_t R, std::size_t V, class W>
HWY_INLINE void multiply_add(const float* a, std::size_t lda, W w, hn::Vec<D> (&sums)[R][V]) {
  const D d;
  constexpr std::size_t registers = HWY_TARGET <= HWY_AVX3 ? 32 : 16;
  if constexpr (R * V + V + 2 <= registers) {
    hn::Vec<D> own[V];
#pragma GCC unroll 32
    for (std::size_t v = 0; v < V; ++v) own[v] = w(v);
#pragma GCC unroll 8
    for (std::size_t r = 0; r < R; ++r) {
      const auto value = hn::Set(d, a[r * lda]);
#pragma GCC unroll 32
      for (std::size_t v = 0; v < V; ++v) sums[r][v] = hn::MulAdd(value, own[v], sums[r][v]);
    }
  } else {
#pragma GCC unroll 32
    for (std::size_t v = 0; v < V; ++v) {
      const auto own = w(v);
#pragma GCC unroll 8
      for (std::size_t r = 0; r < R; ++r) sums[r][v] = hn::MulAdd(hn::Set(d, a[r * lda]), own, sums[r][v]);
    }
  }
}

// c[R, P * vectors] (+)= a[R, inner] b[inner, ...]: row r of a begins at a + r lda, row k of b at b + k ldb
// (a pair of rows at twice that distance for bf16), and P blocks of columns lie `panel` elements apart in b
// and side by side in c. Reading several panels side by side keeps more of the memory busy: one stream draws
// 11 GB/s a core here, four 15 and eight 18.
template <std::size_t R, std::size_t V, std::size_t P>
HWY_NOINLINE void product_tile(std::size_t inner, const float* a, std::size_t lda, const float* b,
                               std::size_t ldb, std::size_t panel, float* c, std::size_t ldc,
                               bool accumulate) {
  const D d;
  constexpr std::size_t lanes = hn::MaxLanes(d);
  hn::Vec<D> sums[R][P * V];
#pragma GCC unroll 8
  for (std::size_t r = 0; r < R; ++r)
#pragma GCC unroll 32
    for (std::size_t v = 0; v < P * V; ++v)
      sums[r][v] = accumulate ? hn::LoadU(d, c + r * ldc + v * lanes) : hn::Zero(d);
  for (std::size_t k = 0; k < inner; ++k) {
    const float* from = b + k * ldb;
    multiply_add<R, P * V>(
        a + k, lda,
        [&](std::size_t v) HWY_ATTR { return hn::LoadU(d, from + v / V * panel + v % V * lanes); }, sums);
  }
#pragma GCC unroll 8
  for (std::size_t r = 0; r < R; ++r)
#pragma GCC unroll 32
    for (std::size_t v = 0; v < P * V; ++v) hn::StoreU(sums[r][v], d, c + r * ldc + v * lanes);
}

// The same for bf16: each 32-bit lane holds rows k (lower half) and k + 1, `inner` is rounded up to even.
template <std::size_t R, std::size_t V, std::size_t P>
HWY_NOINLINE void product_tile(std::size_t inner, const float* a, std::size_t lda, const std::uint16_t* b,
                               std::size_t ldb, std::size_t panel, float* c, std::size_t ldc,
                               bool accumulate) {
  const D d;
  const hn::RebindToUnsigned<D> d32;
  constexpr std::size_t lanes = hn::MaxLanes(d);
  const auto upper = hn::Set(d32, 0xffff0000U);
  hn::Vec<D> sums[R][P * V];
#pragma GCC unroll 8
  for (std::size_t r = 0; r < R; ++r)
#pragma GCC unroll 32
    for (std::size_t v = 0; v < P * V; ++v)
      sums[r][v] = accumulate ? hn::LoadU(d, c + r * ldc + v * lanes) : hn::Zero(d);
  for (std::size_t k = 0; k < inner; k += 2) {
    const std::uint16_t* from = b + k * ldb;
    const auto pair = [&](std::size_t v) HWY_ATTR {
      return hn::LoadU(d32, reinterpret_cast<const std::uint32_t*>(from + v / V * panel + v % V * lanes * 2));
    };
    multiply_add<R, P * V>(
        a + k, lda, [&](std::size_t v) HWY_ATTR { return hn::BitCast(d, hn::ShiftLeft<16>(pair(v))); }, sums);
    multiply_add<R, P * V>(
        a + k + 1, lda, [&](std::size_t v) HWY_ATTR { return hn::BitCast(d, hn::And(pair(v), upper)); },
        sums);
  }
#pragma GCC unroll 8
  for (std::size_t r = 0; r < R; ++r)
#pragma GCC unroll 32
    for (std::size_t v = 0; v < P * V; ++v) hn::StoreU(sums[r][v], d, c + r * ldc + v * lanes);
}

// The same for int8 without its scales: each 32-bit lane holds rows k (lowest byte) to k + 3, `inner` is
// rounded up to a multiple of 4.
template <std::size_t R, std::size_t V, std::size_t P>
HWY_NOINLINE void product_tile(std::size_t inner, const float* a, std::size_t lda, const std::int8_t* b,
                               std::size_t ldb, std::size_t panel, float* c, std::size_t ldc,
                               bool accumulate) {
  const D d;
  const hn::RebindToSigned<D> d32;
  constexpr std::size_t lanes = hn::MaxLanes(d);
  hn::Vec<D> sums[R][P * V];
#pragma GCC unroll 8
  for (std::size_t r = 0; r < R; ++r)
#pragma GCC unroll 32
    for (std::size_t v = 0; v < P * V; ++v)
      sums[r][v] = accumulate ? hn::LoadU(d, c + r * ldc + v * lanes) : hn::Zero(d);
  for (std::size_t k = 0; k < inner; k += 4) {
    const std::int8_t* from = b + k * ldb;
    const auto add = [&](std::size_t i, auto widen) HWY_ATTR {
      multiply_add<R, P * V>(
          a + k + i, lda,
          [&](std::size_t v) HWY_ATTR {
            const auto* quads =
                reinterpret_cast<const std::int32_t*>(from + v / V * panel + v % V * lanes * 4);
            return hn::ConvertTo(d, widen(hn::LoadU(d32, quads)));
          },
          sums);
    };
    using Quad = hn::Vec<decltype(d32)>;
    add(0, [](Quad quad) HWY_ATTR { return hn::ShiftRight<24>(hn::ShiftLeft<24>(quad)); });
    add(1, [](Quad quad) HWY_ATTR { return hn::ShiftRight<24>(hn::ShiftLeft<16>(quad)); });
    add(2, [](Quad quad) HWY_ATTR { return hn::ShiftRight<24>(hn::ShiftLeft<8>(quad)); });
    add(3, [](Quad quad) HWY_ATTR { return hn::ShiftRight<24>(quad); });
  }
#pragma GCC unroll 8
  for (std::size_t r = 0; r < R; ++r)
#pragma GCC unroll 32
    for (std::size_t v = 0; v < P * V; ++v) hn::StoreU(sums[r][v], d, c + r * ldc + v * lanes);
}

// Rows of b that are interleaved in a word.
template <class T>
inline constexpr std::size_t paired = 4 / sizeof(T);

// V vectors' columns for all rows of a, Most at a time.
template <std::size_t V, std::size_t Most = tile_rows, class T>
HWY_INLINE void product_columns(std::size_t rows, std::size_t inner, const float* a, std::size_t lda,
                                const T* b, std::size_t ldb, float* c, std::size_t ldc, bool accumulate) {
  for (; rows >= Most; rows -= Most, a += Most * lda, c += Most * ldc)
    product_tile<Most, V, 1>(inner, a, lda, b, ldb, 0, c, ldc, accumulate);
  if constexpr (Most > 1)
    if (rows > 0) product_columns<V, Most - 1>(rows, inner, a, lda, b, ldb, c, ldc, accumulate);
}

// Row k of b's columns as floats. T is float, uint16_t (bf16) or int8_t.
template <class T>
HWY_INLINE hn::Vec<D> widened(const T* b, std::size_t ldb, std::size_t k, std::size_t column) {
  const D d;
  const T* from = b + k / paired<T> * paired<T> * ldb + column * paired<T>;
  if constexpr (sizeof(T) == 4) {
    return hn::LoadU(d, from);
  } else if constexpr (sizeof(T) == 2) {
    const hn::RebindToUnsigned<D> d32;
    const auto pair = hn::LoadU(d32, reinterpret_cast<const std::uint32_t*>(from));
    return hn::BitCast(d, k % 2 == 0 ? hn::ShiftLeft<16>(pair) : hn::And(pair, hn::Set(d32, 0xffff0000U)));
  } else {
    const hn::RebindToSigned<D> d32;
    const auto quad = hn::LoadU(d32, reinterpret_cast<const std::int32_t*>(from));
    return hn::ConvertTo(d, hn::ShiftRight<24>(hn::ShiftLeftSame(quad, 24 - 8 * static_cast<int>(k % 4))));
  }
}

// c[rows, columns] (+)= a[rows, inner] b[inner, columns]; `columns` is a multiple of 16. For many rows, some
// columns of b at a time are copied, as floats and one row after the other: 4 to 16 KB that stay in the L1
// cache, where b's own rows lie 256 bytes apart and would leave it for those of a and c.
template <class T>
HWY_INLINE void product(std::size_t rows, std::size_t inner, const float* a, std::size_t lda, const T* b,
                        std::size_t ldb, std::size_t columns, float* c, std::size_t ldc, bool accumulate) {
  constexpr std::size_t lanes = hn::MaxLanes(D()), width = tile_vectors * lanes;
  constexpr std::size_t most_inner = 256, worth_copying = 2 * tile_rows;
  std::size_t column = 0;
  if (rows >= worth_copying && inner <= most_inner) {
    alignas(64) float copy[most_inner * width];
    for (; column + width <= columns; column += width) {
      for (std::size_t k = 0; k < inner; ++k)
        for (std::size_t i = 0; i < width; i += lanes)
          hn::Store(widened(b, ldb, k, column + i), D(), copy + k * width + i);
      product_columns<tile_vectors>(rows, inner, a, lda, copy, width, c + column, ldc, accumulate);
    }
  }
  // Up to three rows leave registers for twice as many columns.
  if constexpr (tile_vectors < 4)
    if (rows <= tile_rows / 2)
      for (; column + 2 * width <= columns; column += 2 * width)
        product_columns<2 * tile_vectors, tile_rows / 2>(rows, inner, a, lda, b + column * paired<T>, ldb,
                                                         c + column, ldc, accumulate);
  for (; column + width <= columns; column += width)
    product_columns<tile_vectors>(rows, inner, a, lda, b + column * paired<T>, ldb, c + column, ldc,
                                  accumulate);
  for (; column < columns; column += lanes)
    product_columns<1>(rows, inner, a, lda, b + column * paired<T>, ldb, c + column, ldc, accumulate);
}

}  // namespace fathom::simd::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();
#endif
