#include <immintrin.h>

#include "kernels/ceiling_loops.h"

namespace fathom::ceiling_loops {

int avx2_int8(std::int64_t rounds) {
  const __m256i b = _mm256_set1_epi8(2), ones = _mm256_set1_epi16(1);
  __m256i a = _mm256_set1_epi8(1);
  __m256i sum[sums] = {};
  for (std::int64_t i = 0; i < rounds; ++i) {
    a = _mm256_xor_si256(a, ones);  // or the products would not change and be taken out of the loop
#pragma GCC unroll 16
    for (__m256i& s : sum) {
      s = _mm256_add_epi32(s, _mm256_madd_epi16(_mm256_maddubs_epi16(a, b), ones));
      __asm__("" : "+x"(a));  // nor is one product enough for all sums
    }
  }
  __m256i total = _mm256_setzero_si256();
  for (const __m256i& s : sum) total = _mm256_add_epi32(total, s);
  return _mm256_extract_epi32(total, 0);
}

}  // namespace fathom::ceiling_loops
