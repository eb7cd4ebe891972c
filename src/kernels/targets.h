// For which instruction sets the files with foreach_target are compiled: AVX-512 in its first form, AVX2,
// NEON and the portable path, since each costs its compile time again. What newer sets add (VNNI, BF16, FP16)
// is not used here, and vectors without a fixed size cannot form arrays. Included before any header of
// Highway.
#pragma once

#define HWY_DISABLED_TARGETS \
  (HWY_SSSE3 | HWY_SSE4 | HWY_AVX3_DL | HWY_SVE | HWY_SVE2 | HWY_SVE_256 | HWY_SVE2_128 | HWY_RVV)
