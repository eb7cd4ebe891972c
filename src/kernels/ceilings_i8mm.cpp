#include <arm_neon.h>

#include "kernels/ceiling_loops.h"

namespace fathom::ceiling_loops {

int i8mm_int8(std::int64_t rounds) {
  const int8x16_t a = vdupq_n_s8(1), b = vdupq_n_s8(2);
  int32x4_t sum[sums];
  // Each begins with another value, or one sum would stand for all.
#pragma GCC unroll 16
  for (int i = 0; i < sums; ++i) sum[i] = vdupq_n_s32(i);
  for (std::int64_t i = 0; i < rounds; ++i)
#pragma GCC unroll 16
    for (int32x4_t& s : sum) s = vmmlaq_s32(s, a, b);
  int32x4_t total = vdupq_n_s32(0);
  for (const int32x4_t& s : sum) total = vaddq_s32(total, s);
  return vaddvq_s32(total);
}

}  // namespace fathom::ceiling_loops
