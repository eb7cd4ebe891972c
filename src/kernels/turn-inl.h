// Rows for columns: squares of 16 x 16 words, turned in registers. Included once for each instruction set.

#if defined(FATHOM_TURN_INL_H) == defined(HWY_TARGET_TOGGLE)
#ifdef FATHOM_TURN_INL_H
#undef FATHOM_TURN_INL_H
#else
#define FATHOM_TURN_INL_H
#endif

#include <hwy/highway.h>

#include <cstdint>

HWY_BEFORE_NAMESPACE();
namespace fathom::simd::HWY_NAMESPACE {
namespace {

namespace hn = hwy::HWY_NAMESPACE;

// 16 x 16 words: a tile.
constexpr std::int64_t side = 16;
struct alignas(64) Square {
  std::uint32_t words[side][side];
};

// to[c * stride + r] = square[r][c]. In vectors of four words, 4 x 4 of them change places in 8 instructions;
// in vectors of 16, the whole square does in 64.
#if HWY_TARGET == HWY_SCALAR
void turn(const Square& square, std::uint32_t* to, std::int64_t stride) {
  for (std::int64_t c = 0; c < side; ++c)
    for (std::int64_t r = 0; r < side; ++r) to[c * stride + r] = square.words[r][c];
}
#else
template <class Words>
HWY_INLINE void turn_quads(Words words, hn::Vec<Words>& a, hn::Vec<Words>& b, hn::Vec<Words>& c,
                           hn::Vec<Words>& d) {
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
#if HWY_TARGET == HWY_AVX3
HWY_INLINE void turn(const Square& square, std::uint32_t* to, std::int64_t stride) {
  const hn::FixedTag<std::uint32_t, 16> words;
  hn::Vec<decltype(words)> v[side];
  for (int r = 0; r < side; ++r) v[r] = hn::Load(words, square.words[r]);
  for (int r = 0; r < side; r += 4) turn_quads(words, v[r], v[r + 1], v[r + 2], v[r + 3]);
  // v[4 i + c] has columns c, 4 + c, 8 + c and 12 + c of rows 4 i to 4 i + 3.
  for (int c = 0; c < 4; ++c) {
    const __m512i a = v[c].raw, b = v[4 + c].raw, e = v[8 + c].raw, f = v[12 + c].raw;
    const __m512i even_ab = _mm512_shuffle_i32x4(a, b, 0x88), odd_ab = _mm512_shuffle_i32x4(a, b, 0xdd);
    const __m512i even_ef = _mm512_shuffle_i32x4(e, f, 0x88), odd_ef = _mm512_shuffle_i32x4(e, f, 0xdd);
    _mm512_storeu_si512(to + c * stride, _mm512_shuffle_i32x4(even_ab, even_ef, 0x88));
    _mm512_storeu_si512(to + (c + 4) * stride, _mm512_shuffle_i32x4(odd_ab, odd_ef, 0x88));
    _mm512_storeu_si512(to + (c + 8) * stride, _mm512_shuffle_i32x4(even_ab, even_ef, 0xdd));
    _mm512_storeu_si512(to + (c + 12) * stride, _mm512_shuffle_i32x4(odd_ab, odd_ef, 0xdd));
  }
}
#else
HWY_INLINE void turn(const Square& square, std::uint32_t* to, std::int64_t stride) {
  const hn::FixedTag<std::uint32_t, 4> words;
  for (std::int64_t r = 0; r < side; r += 4) {
    for (std::int64_t c = 0; c < side; c += 4) {
      auto a = hn::Load(words, &square.words[r][c]), b = hn::Load(words, &square.words[r + 1][c]);
      auto e = hn::Load(words, &square.words[r + 2][c]), f = hn::Load(words, &square.words[r + 3][c]);
      turn_quads(words, a, b, e, f);
      hn::StoreU(a, words, to + c * stride + r);
      hn::StoreU(b, words, to + (c + 1) * stride + r);
      hn::StoreU(e, words, to + (c + 2) * stride + r);
      hn::StoreU(f, words, to + (c + 3) * stride + r);
    }
  }
}
#endif
#endif

}  // namespace
}  // namespace fathom::simd::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#endif  // per-target include guard
