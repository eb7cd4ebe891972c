#include <immintrin.h>

#include "kernels/ceiling_loops.h"

namespace fathom::ceiling_loops {

int avx512_int8(std::int64_t rounds) {
  const __m512i b = _mm512_set1_epi8(2), ones = _mm512_set1_epi16(1);
  __m512i a = _mm512_set1_epi8(1);
  __m512i sum[sums] = {};
  for (std::int64_t i = 0; i < rounds; ++i) {
    a = _mm512_xor_si512(a, ones);  // or the products would not change and be taken out of the loop
#pragma GCC unroll 16
    for (__m512i& s : sum) {
      s = _mm512_add_epi32(s, _mm512_madd_epi16(_mm512_maddubs_epi16(a, b), ones));
      __asm__("" : "+v"(a));  // nor is one product enough for all sums
    }
  }
  __m512i total = _mm512_setzero_si512();
  for (const __m512i& s : sum) total = _mm512_add_epi32(total, s);
  return _mm512_cvtsi512_si32(total);
}

}  // namespace fathom::ceiling_loops
