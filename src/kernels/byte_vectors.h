// Vectors of 256 and 512 bits for products with integer weights, for the files named after an instruction set
// alone: they are compiled for it and run where isa() says so. Hence nothing here has an external name.
#pragma once

#include <immintrin.h>

#include <cstddef>
#include <cstdint>

namespace fathom::products {
namespace {

struct Vectors256 {
  using Ints = __m256i;
  using Floats = __m256;
  static constexpr int lanes = 8;

  static Ints load(const std::byte* from) {
    return _mm256_loadu_si256(reinterpret_cast<const __m256i*>(from));
  }
  static Ints all(std::int32_t value) { return _mm256_set1_epi32(value); }
  static Ints all_bytes(int value) { return _mm256_set1_epi8(static_cast<char>(value)); }
  static Ints and_(Ints a, Ints b) { return _mm256_and_si256(a, b); }
  static Ints or_(Ints a, Ints b) { return _mm256_or_si256(a, b); }
  static Ints xor_(Ints a, Ints b) { return _mm256_xor_si256(a, b); }
  /// Of 16 bits.
  template <int bits>
  static Ints left(Ints a) {
    return _mm256_slli_epi16(a, bits);
  }
  template <int bits>
  static Ints right(Ints a) {
    return _mm256_srli_epi16(a, bits);
  }
  static Ints upper_four_bits(Ints a) { return and_(right<4>(a), all_bytes(15)); }
  static Ints add(Ints a, Ints b) { return _mm256_add_epi32(a, b); }
  static Ints add_halves(Ints a, Ints b) { return _mm256_add_epi16(a, b); }
  static Ints multiply(Ints a, Ints b) { return _mm256_mullo_epi32(a, b); }
  /// Unsigned by signed bytes, sums of two in 16 bits.
  static Ints pairs(Ints of, Ints by) { return _mm256_maddubs_epi16(of, by); }
  /// Sums of two of 16 bits in 32.
  static Ints sum_pairs(Ints pairs) { return _mm256_madd_epi16(pairs, _mm256_set1_epi16(1)); }
  /// The signs of some bytes, to give to others, and the bytes without them.
  struct Signed {
    Signed() = default;
    explicit Signed(Ints bytes) : signs(bytes), magnitude(_mm256_abs_epi8(bytes)) {}
    Ints give_to(Ints value) const { return _mm256_sign_epi8(value, signs); }
    Ints signs, magnitude;
  };
  static Ints bytes_widened(const std::int8_t* from) {
    return _mm256_cvtepi8_epi32(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(from)));
  }
  static void stay(Ints& value) { asm("" : "+x"(value)); }

  static Floats all(float value) { return _mm256_set1_ps(value); }
  static Floats load(const float* from) { return _mm256_loadu_ps(from); }
  static void store(Floats values, float* to) { _mm256_storeu_ps(to, values); }
  static Floats floats(Ints values) { return _mm256_cvtepi32_ps(values); }
  static Floats multiply(Floats a, Floats b) { return _mm256_mul_ps(a, b); }
  static Floats multiply_add(Floats a, Floats b, Floats c) { return _mm256_fmadd_ps(a, b, c); }
};

#if defined(__AVX512F__)
struct Vectors512 {
  using Ints = __m512i;
  using Floats = __m512;
  static constexpr int lanes = 16;

  static Ints load(const std::byte* from) { return _mm512_loadu_si512(from); }
  static Ints all(std::int32_t value) { return _mm512_set1_epi32(value); }
  static Ints all_bytes(int value) { return _mm512_set1_epi8(static_cast<char>(value)); }
  static Ints and_(Ints a, Ints b) { return _mm512_and_si512(a, b); }
  static Ints or_(Ints a, Ints b) { return _mm512_or_si512(a, b); }
  static Ints xor_(Ints a, Ints b) { return _mm512_xor_si512(a, b); }
  template <int bits>
  static Ints left(Ints a) {
    return _mm512_slli_epi16(a, bits);
  }
  template <int bits>
  static Ints right(Ints a) {
    return _mm512_srli_epi16(a, bits);
  }
  static Ints upper_four_bits(Ints a) { return and_(right<4>(a), all_bytes(15)); }
  static Ints add(Ints a, Ints b) { return _mm512_add_epi32(a, b); }
  static Ints add_halves(Ints a, Ints b) { return _mm512_add_epi16(a, b); }
  static Ints multiply(Ints a, Ints b) { return _mm512_mullo_epi32(a, b); }
  static Ints pairs(Ints of, Ints by) { return _mm512_maddubs_epi16(of, by); }
  static Ints sum_pairs(Ints pairs) { return _mm512_madd_epi16(pairs, _mm512_set1_epi16(1)); }
  struct Signed {
    Signed() = default;
    explicit Signed(Ints bytes) : negative(_mm512_movepi8_mask(bytes)), magnitude(_mm512_abs_epi8(bytes)) {}
    Ints give_to(Ints value) const {
      return _mm512_mask_sub_epi8(value, negative, _mm512_setzero_si512(), value);
    }
    __mmask64 negative;
    Ints magnitude;
  };
  static Ints bytes_widened(const std::int8_t* from) {
    return _mm512_cvtepi8_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(from)));
  }
  static void stay(Ints& value) { asm("" : "+v"(value)); }

  static Floats all(float value) { return _mm512_set1_ps(value); }
  static Floats load(const float* from) { return _mm512_loadu_ps(from); }
  static void store(Floats values, float* to) { _mm512_storeu_ps(to, values); }
  static Floats floats(Ints values) { return _mm512_cvtepi32_ps(values); }
  static Floats multiply(Floats a, Floats b) { return _mm512_mul_ps(a, b); }
  static Floats multiply_add(Floats a, Floats b, Floats c) { return _mm512_fmadd_ps(a, b, c); }
};
#endif

}  // namespace
}  // namespace fathom::products
