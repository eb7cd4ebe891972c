// Rows of values in the forms that products read them.
#include <algorithm>

#include "kernels/isa.h"
#include "kernels/product.h"
#include "kernels/quantise.h"
#include "kernels/simd.h"
#include "kernels/targets.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/rounding.cpp"
#include <hwy/foreach_target.h>
// After foreach_target, as Highway wants it.
#include "kernels/vectors-inl.h"

HWY_BEFORE_NAMESPACE();
namespace fathom::simd::HWY_NAMESPACE {

HWY_INLINE float as_float(std::uint32_t bits) {
  float value;
  hwy::CopySameSize(&bits, &value);
  return value;
}
HWY_INLINE float as_float(std::uint16_t bits) { return as_float(std::uint32_t{bits} << 16); }

// The largest magnitude, or NaN if any value is: the bits of floats without their signs are ordered like
// whole numbers, NaN above infinity. Bits is uint32_t for float32 and uint16_t for bf16.
template <class Bits>
HWY_INLINE float largest_magnitude(std::size_t count, const Bits* x) {
  const hn::ScalableTag<Bits> d;
  const std::size_t lanes = hn::Lanes(d);
  constexpr auto magnitude = static_cast<Bits>(static_cast<Bits>(~Bits{0}) >> 1);
  const auto mask = hn::Set(d, magnitude);
  // One maximum after another would wait for each other.
  auto first = hn::Zero(d), second = hn::Zero(d);
  std::size_t i = 0;
  for (; i + 2 * lanes <= count; i += 2 * lanes) {
    first = hn::Max(first, hn::And(hn::LoadU(d, x + i), mask));
    second = hn::Max(second, hn::And(hn::LoadU(d, x + i + lanes), mask));
  }
  Bits largest = hn::GetLane(hn::MaxOfLanes(d, hn::Max(first, second)));
  for (; i < count; ++i) largest = std::max<Bits>(largest, x[i] & magnitude);
  return as_float(largest);
}

HWY_INLINE float largest_magnitude(std::size_t count, const float* x) {
  return largest_magnitude(count, reinterpret_cast<const std::uint32_t*>(x));
}

#if HWY_TARGET == HWY_AVX3
// 64 values, each times `inverse`, to the nearest whole numbers from -127 to 127. Odd values are read where
// they lie, in the upper halves of 32 bits, and bytes are put together in there, so that one permutation is
// left: 19 instructions on two ports instead of the 44 of conversions that keep the order and saturate.
HWY_INLINE void quantise_64(const std::uint16_t* x, Vector inverse, std::int8_t* y) {
  const auto two_bytes = [&](const std::uint16_t* from) {  // of each 32 bits
    const __m512i both = _mm512_loadu_si512(from);
    const __m512 even = _mm512_castsi512_ps(_mm512_slli_epi32(both, 16));
    const __m512 odd = _mm512_castsi512_ps(_mm512_and_si512(both, _mm512_set1_epi32(-0x10000)));
    const auto whole = [&](__m512 v) { return _mm512_cvtps_epi32(_mm512_mul_ps(v, inverse.raw)); };
    constexpr int where_set = 0xca;  // of the first operand the second, elsewhere the third
    return _mm512_ternarylogic_epi32(_mm512_set1_epi32(0xff), whole(even), _mm512_slli_epi32(whole(odd), 8),
                                     where_set);
  };
  const __m512i first = two_bytes(x), second = two_bytes(x + 32);
  const __m512i mixed = _mm512_mask_blend_epi16(0xaaaaaaaa, first, _mm512_slli_epi32(second, 16));
  const __m512i in_order = _mm512_set_epi16(31, 29, 27, 25, 23, 21, 19, 17, 15, 13, 11, 9, 7, 5, 3, 1,  //
                                            30, 28, 26, 24, 22, 20, 18, 16, 14, 12, 10, 8, 6, 4, 2, 0);
  _mm512_storeu_si512(y, _mm512_permutexvar_epi16(in_order, mixed));
}
#endif

// quantise_activations of quantise.h, into the row's place among tiles.
template <class T>
HWY_INLINE float quantised(std::size_t width, std::size_t padded, const T* x, std::int8_t* y) {
  const D d;
  const hn::Rebind<std::int8_t, D> d8;
  const std::size_t lanes = hn::Lanes(d);
  const float most = largest_magnitude(width, x);
  const Vector inverse = hn::Set(d, most > 0 ? 127 / most : 0);
  const auto put = [&](Vector v, std::size_t at) {
    hn::StoreU(hn::DemoteTo(d8, hn::NearestInt(hn::Mul(v, inverse))), d8,
               y + tiled_offset(0, 0, static_cast<std::int64_t>(at)));
  };
  std::size_t i = 0;
#if HWY_TARGET == HWY_AVX3
  if constexpr (sizeof(T) == 2)
    for (; i + 64 <= width; i += 64)
      quantise_64(x + i, inverse, y + tiled_offset(0, 0, static_cast<std::int64_t>(i)));
#endif
  for (; i + lanes <= width; i += lanes) put(load(x + i, lanes), i);
  for (; i < padded; i += lanes) put(i < width ? load(x + i, width - i) : hn::Zero(d), i);
  return most / 127;
}

template <class T>
HWY_INLINE void quantised_groups(std::size_t width, std::size_t padded, std::size_t group, const T* x,
                                 std::int8_t* y, float* scales) {
  constexpr std::size_t together = group_size;
  const D d;
  const hn::Rebind<std::int8_t, D> d8;
  const std::size_t lanes = hn::Lanes(d);
  T last[together] = {};
  for (std::size_t at = 0; at < padded; at += together) {
    const T* from = x + at;
    if (at + together > width) {
      std::fill(std::copy(x + std::min(at, width), x + width, last), std::end(last), T{0});
      from = last;
    }
    const float most = largest_magnitude(together, from);
    const Vector inverse = hn::Set(d, most > 0 ? 127 / most : 0);
    for (std::size_t i = 0; i < together; i += lanes)
      hn::StoreU(hn::DemoteTo(d8, hn::NearestInt(hn::Mul(load(from + i, lanes), inverse))), d8,
                 y + tiled_offset(0, 0, static_cast<std::int64_t>(at + i)));
    for (std::size_t g = at / group; g < (at + together) / group; ++g) scales[g * 16] = most / 127;
  }
}

void to_int8_groups(std::size_t width, std::size_t padded, std::size_t group, const float* x, std::int8_t* y,
                    float* scales) {
  quantised_groups(width, padded, group, x, y, scales);
}
void bf16_to_int8_groups(std::size_t width, std::size_t padded, std::size_t group, const std::uint16_t* x,
                         std::int8_t* y, float* scales) {
  quantised_groups(width, padded, group, x, y, scales);
}

// Sums of eight neighbouring bytes are one instruction for unsigned ones: 128 more each.
void sum_groups(std::size_t groups, std::size_t size, const std::int8_t* row, std::int32_t* sums) {
  const hn::CappedTag<std::uint8_t, 16> d8;
  const hn::RepartitionToWide<hn::RepartitionToWide<hn::RepartitionToWide<decltype(d8)>>> d64;
  const auto flip = hn::Set(d8, 0x80);
  for (std::size_t g = 0; g < groups; ++g) {
    auto sum = hn::Zero(d64);
    for (std::size_t i = 0; i < size; i += hn::Lanes(d8)) {
      const std::int8_t* from = row + tiled_offset(0, 0, static_cast<std::int64_t>(g * size + i));
      sum = hn::Add(sum,
                    hn::SumsOf8(hn::Xor(hn::LoadU(d8, reinterpret_cast<const std::uint8_t*>(from)), flip)));
    }
    sums[g * 16] = static_cast<std::int32_t>(hn::GetLane(hn::SumOfLanes(d64, sum))) -
                   128 * static_cast<std::int32_t>(size);
  }
}

float to_int8(std::size_t width, std::size_t padded, const float* x, std::int8_t* y) {
  return quantised(width, padded, x, y);
}
float bf16_to_int8(std::size_t width, std::size_t padded, const std::uint16_t* x, std::int8_t* y) {
  return quantised(width, padded, x, y);
}

void to_bf16(std::size_t count, const float* x, std::uint16_t* y) {
  each_vector(count, [&](std::size_t i, std::size_t n) { store(load(x + i, n), y + i, n); });
}

void activations_to_bf16(std::size_t count, const float* x, std::uint16_t* y) {
  with_bf16([&](auto type) {
    each_vector(count, [&](std::size_t i, std::size_t n) { type.put(load(x + i, n), y + i, n); });
  });
}

void widen_bf16(std::size_t count, const std::uint16_t* x, float* y) {
  each_vector(count, [&](std::size_t i, std::size_t n) { store(load(x + i, n), y + i, n); });
}

void round_to_bf16(std::size_t count, const float* x, float* y) {
  each_vector(count, [&](std::size_t i, std::size_t n) {
    store(hn::BitCast(D(), bf16_bits(load(x + i, n))), y + i, n);
  });
}

}  // namespace fathom::simd::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace fathom::simd {

HWY_EXPORT(to_int8);
HWY_EXPORT(bf16_to_int8);
HWY_EXPORT(to_int8_groups);
HWY_EXPORT(bf16_to_int8_groups);
HWY_EXPORT(sum_groups);
HWY_EXPORT(to_bf16);
HWY_EXPORT(activations_to_bf16);
HWY_EXPORT(widen_bf16);
HWY_EXPORT(round_to_bf16);

float to_int8(std::size_t width, std::size_t padded, const float* x, std::int8_t* y) {
  return HWY_DYNAMIC_DISPATCH(to_int8)(width, padded, x, y);
}
float to_int8(std::size_t width, std::size_t padded, const std::uint16_t* x, std::int8_t* y) {
  return HWY_DYNAMIC_DISPATCH(bf16_to_int8)(width, padded, x, y);
}
void to_int8_groups(std::size_t width, std::size_t padded, std::size_t group, const float* x, std::int8_t* y,
                    float* scales) {
  HWY_DYNAMIC_DISPATCH(to_int8_groups)(width, padded, group, x, y, scales);
}
void to_int8_groups(std::size_t width, std::size_t padded, std::size_t group, const std::uint16_t* x,
                    std::int8_t* y, float* scales) {
  HWY_DYNAMIC_DISPATCH(bf16_to_int8_groups)(width, padded, group, x, y, scales);
}
void sum_groups(std::size_t groups, std::size_t size, const std::int8_t* row, std::int32_t* sums) {
  HWY_DYNAMIC_DISPATCH(sum_groups)(groups, size, row, sums);
}
void to_bf16(std::size_t count, const float* x, std::uint16_t* y) {
  HWY_DYNAMIC_DISPATCH(to_bf16)(count, x, y);
}
void activations_to_bf16(std::size_t count, const float* x, std::uint16_t* y) {
  HWY_DYNAMIC_DISPATCH(activations_to_bf16)(count, x, y);
}
void widen_bf16(std::size_t count, const std::uint16_t* x, float* y) {
  HWY_DYNAMIC_DISPATCH(widen_bf16)(count, x, y);
}
void round_to_bf16(std::size_t count, const float* x, float* y) {
  HWY_DYNAMIC_DISPATCH(round_to_bf16)(count, x, y);
}

}  // namespace fathom::simd
#endif
