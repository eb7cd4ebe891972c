#include <immintrin.h>

#include "kernels/ceiling_loops.h"

namespace fathom::ceiling_loops {

int avxvnni_int8(std::int64_t rounds) {
  const __m256i a = _mm256_set1_epi8(1), b = _mm256_set1_epi8(2);
  __m256i sum[sums];
  // Each begins with another value, or one sum would stand for all.
#pragma GCC unroll 16
  for (int i = 0; i < sums; ++i) sum[i] = _mm256_set1_epi32(i);
  for (std::int64_t i = 0; i < rounds; ++i)
#pragma GCC unroll 16
    for (__m256i& s : sum) s = _mm256_dpbusd_avx_epi32(s, a, b);
  __m256i total = _mm256_setzero_si256();
  for (const __m256i& s : sum) total = _mm256_add_epi32(total, s);
  return _mm256_extract_epi32(total, 0);
}

}  // namespace fathom::ceiling_loops
