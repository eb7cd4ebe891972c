#include <immintrin.h>

#include "kernels/ceiling_loops.h"

namespace fathom::ceiling_loops {

int avx512vnni_int8(std::int64_t rounds) {
  const __m512i a = _mm512_set1_epi8(1), b = _mm512_set1_epi8(2);
  __m512i sum[sums];
  // Each begins with another value, or one sum would stand for all.
#pragma GCC unroll 16
  for (int i = 0; i < sums; ++i) sum[i] = _mm512_set1_epi32(i);
  for (std::int64_t i = 0; i < rounds; ++i)
#pragma GCC unroll 16
    for (__m512i& s : sum) s = _mm512_dpbusd_epi32(s, a, b);
  __m512i total = _mm512_setzero_si512();
  for (const __m512i& s : sum) total = _mm512_add_epi32(total, s);
  return _mm512_cvtsi512_si32(total);
}

}  // namespace fathom::ceiling_loops
