#include <arm_neon.h>

#include "kernels/ceiling_loops.h"

namespace fathom::ceiling_loops {

int neon_int8(std::int64_t rounds) {
  int8x16_t a = vdupq_n_s8(1);
  const int8x16_t b = vdupq_n_s8(2);
  int32x4_t sum[sums] = {};
  for (std::int64_t i = 0; i < rounds; ++i)
#pragma GCC unroll 16
    for (int32x4_t& s : sum) {
      s = vpadalq_s16(s, vpaddq_s16(vmull_s8(vget_low_s8(a), vget_low_s8(b)), vmull_high_s8(a, b)));
      __asm__("" : "+w"(a));  // or one product would be enough for all sums
    }
  int32x4_t total = vdupq_n_s32(0);
  for (const int32x4_t& s : sum) total = vaddq_s32(total, s);
  return vaddvq_s32(total);
}

}  // namespace fathom::ceiling_loops
