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
#pragma GCC unroll 32
    for (std::size_t v = 0; v < P * V; ++v) {
      const auto w = hn::LoadU(d, from + v / V * panel + v % V * lanes);
#pragma GCC unroll 8
      for (std::size_t r = 0; r < R; ++r) sums[r][v] = hn::MulAdd(hn::Set(d, a[r * lda + k]), w, sums[r][v]);
    }
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
#pragma GCC unroll 32
    for (std::size_t v = 0; v < P * V; ++v) {
      const auto pair =
          hn::LoadU(d32, reinterpret_cast<const std::uint32_t*>(from + v / V * panel + v % V * lanes * 2));
      const auto even = hn::BitCast(d, hn::ShiftLeft<16>(pair));
      const auto odd = hn::BitCast(d, hn::And(pair, upper));
#pragma GCC unroll 8
      for (std::size_t r = 0; r < R; ++r) {
        sums[r][v] = hn::MulAdd(hn::Set(d, a[r * lda + k]), even, sums[r][v]);
        sums[r][v] = hn::MulAdd(hn::Set(d, a[r * lda + k + 1]), odd, sums[r][v]);
      }
    }
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
#pragma GCC unroll 32
    for (std::size_t v = 0; v < P * V; ++v) {
      const auto quad =
          hn::LoadU(d32, reinterpret_cast<const std::int32_t*>(from + v / V * panel + v % V * lanes * 4));
      const auto add = [&](std::size_t i, hn::Vec<D> w) {
#pragma GCC unroll 8
        for (std::size_t r = 0; r < R; ++r)
          sums[r][v] = hn::MulAdd(hn::Set(d, a[r * lda + k + i]), w, sums[r][v]);
      };
      add(0, hn::ConvertTo(d, hn::ShiftRight<24>(hn::ShiftLeft<24>(quad))));
      add(1, hn::ConvertTo(d, hn::ShiftRight<24>(hn::ShiftLeft<16>(quad))));
      add(2, hn::ConvertTo(d, hn::ShiftRight<24>(hn::ShiftLeft<8>(quad))));
      add(3, hn::ConvertTo(d, hn::ShiftRight<24>(quad)));
    }
  }
#pragma GCC unroll 8
  for (std::size_t r = 0; r < R; ++r)
#pragma GCC unroll 32
    for (std::size_t v = 0; v < P * V; ++v) hn::StoreU(sums[r][v], d, c + r * ldc + v * lanes);
}

// For b's columns in one stretch, a multiple of 16.
template <std::size_t R, class T>
HWY_INLINE void product_rows(std::size_t inner, const float* a, std::size_t lda, const T* b, std::size_t ldb,
                             std::size_t columns, float* c, std::size_t ldc, bool accumulate) {
  constexpr std::size_t lanes = hn::MaxLanes(D());
  constexpr std::size_t paired = 4 / sizeof(T);  // rows of b that are interleaved in a word
  std::size_t column = 0;
  for (; column + tile_vectors * lanes <= columns; column += tile_vectors * lanes)
    product_tile<R, tile_vectors, 1>(inner, a, lda, b + column * paired, ldb, 0, c + column, ldc, accumulate);
  for (; column < columns; column += lanes)
    product_tile<R, 1, 1>(inner, a, lda, b + column * paired, ldb, 0, c + column, ldc, accumulate);
}

// c[rows, columns] (+)= a[rows, inner] b[inner, columns].
template <class T>
HWY_INLINE void product(std::size_t rows, std::size_t inner, const float* a, std::size_t lda, const T* b,
                        std::size_t ldb, std::size_t columns, float* c, std::size_t ldc, bool accumulate) {
  for (; rows >= tile_rows; rows -= tile_rows, a += tile_rows * lda, c += tile_rows * ldc)
    product_rows<tile_rows>(inner, a, lda, b, ldb, columns, c, ldc, accumulate);
  switch (rows) {
    case 1:
      return product_rows<1>(inner, a, lda, b, ldb, columns, c, ldc, accumulate);
    case 2:
      return product_rows<2>(inner, a, lda, b, ldb, columns, c, ldc, accumulate);
    case 3:
      return product_rows<3>(inner, a, lda, b, ldb, columns, c, ldc, accumulate);
    case 4:
      return product_rows<4>(inner, a, lda, b, ldb, columns, c, ldc, accumulate);
    case 5:
      return product_rows<5>(inner, a, lda, b, ldb, columns, c, ldc, accumulate);
    default:
      return;
  }
}

}  // namespace fathom::simd::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();
#endif
