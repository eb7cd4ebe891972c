#include <immintrin.h>

#include "kernels/ceiling_loops.h"

namespace fathom::ceiling_loops {

int avx512bf16_bf16(std::int64_t rounds) {
  const __m512bh a = reinterpret_cast<__m512bh>(_mm512_set1_epi16(0x3f00));  // halves
  __m512 sum[sums];
  // Each begins with another value, or one sum would stand for all.
#pragma GCC unroll 16
  for (int i = 0; i < sums; ++i) sum[i] = _mm512_set1_ps(static_cast<float>(i));
  for (std::int64_t i = 0; i < rounds; ++i)
#pragma GCC unroll 16
    for (__m512& s : sum) s = _mm512_dpbf16_ps(s, a, a);
  __m512 total = _mm512_setzero_ps();
  for (const __m512& s : sum) total = _mm512_add_ps(total, s);
  return static_cast<int>(_mm512_cvtss_f32(total));
}

}  // namespace fathom::ceiling_loops
