// For the files named *_avx512.cpp and *_amx.cpp alone, which run where isa() says so.
#pragma once

#include <immintrin.h>

#include "kernels/packed_matrix.h"

namespace fathom::products {

/// The 16 scales, or minima, of a group.
inline __m512 group_values(const PackedMatrix& weight, const std::byte* of_group) {
  if (!weight.half_scales) return _mm512_loadu_ps(of_group);
  return _mm512_cvtph_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(of_group)));
}

}  // namespace fathom::products
