// Products with int8 and int4 weights for processors without VNNI: a panel's 16 outputs are two vectors of
// sums.
#include <immintrin.h>

#include "kernels/product.h"

namespace fathom::products {
namespace {

__m256i load(const std::byte* from) { return _mm256_loadu_si256(reinterpret_cast<const __m256i*>(from)); }

// Sums of four neighbouring products, unsigned times signed bytes, added to `sums`. vpmaddubsw adds pairs in
// 16 bits, so each product must stay within 2^14.
__m256i add_products(__m256i sums, __m256i unsigned_bytes, __m256i signed_bytes) {
  const __m256i pairs = _mm256_maddubs_epi16(unsigned_bytes, signed_bytes);
  return _mm256_add_epi32(sums, _mm256_madd_epi16(pairs, _mm256_set1_epi16(1)));
}

__m256i four_of(const Activations& x, std::int64_t row, std::int64_t k) {
  return _mm256_set1_epi32(*reinterpret_cast<const std::int32_t*>(x.data + tiled_offset(x.stride, row, k)));
}

// The sign of an activation goes over to the weight, so that its magnitude is the unsigned factor: 127 * 127
// < 2^14.
void int8_sums(const PackedMatrix& weight, const Activations& x, std::int64_t row, const std::byte* panel,
               __m256i sums[2]) {
  for (std::int64_t k = 0; k < weight.padded_in; k += 4) {
    const __m256i values = four_of(x, row, k), magnitudes = _mm256_abs_epi8(values);
    for (int half = 0; half < 2; ++half)
      sums[half] =
          add_products(sums[half], magnitudes, _mm256_sign_epi8(load(panel + k * 16 + half * 32), values));
  }
}

// As product_avx512.cpp's: a group's sum begins at -8 times its activations', since a stored 0 stands for -8.
void int4_sums(const PackedMatrix& weight, const Activations& x, std::int64_t row, const std::byte* panel,
               __m256i sums[2]) {
  const __m256i low = _mm256_set1_epi8(15);
  for (std::int64_t g = 0; g < weight.groups(); ++g) {
    const __m256i start = _mm256_set1_epi32(-8 * x.sums[row * weight.groups() + g]);
    for (int half = 0; half < 2; ++half) {
      __m256i group = start;
      for (std::int64_t eight = 0; eight < 4; ++eight) {
        const __m256i both = load(panel + (g * 4 + eight) * 64 + half * 32);
        const __m256i first = _mm256_and_si256(both, low);
        const __m256i second = _mm256_and_si256(_mm256_srli_epi16(both, 4), low);
        group = add_products(group, first, four_of(x, row, g * 32 + eight * 8));
        group = add_products(group, second, four_of(x, row, g * 32 + eight * 8 + 4));
      }
      const __m256i multipliers = _mm256_cvtepi8_epi32(_mm_loadl_epi64(
          reinterpret_cast<const __m128i*>(weight.multipliers(panel) + g * panel_outputs + half * 8)));
      sums[half] = _mm256_add_epi32(sums[half], _mm256_mullo_epi32(group, multipliers));
    }
  }
}

}  // namespace

void integers_avx2(const PackedMatrix& weight, const Activations& x, Range rows, Range panels,
                   const Destination& to, std::byte*) {
  row_by_row(weight, x, rows, panels, to,
             [](const PackedMatrix& matrix, const Activations& values, std::int64_t row,
                const std::byte* panel, std::int32_t* block) {
               __m256i sums[2] = {_mm256_setzero_si256(), _mm256_setzero_si256()};
               if (matrix.type == Compute::int8)
                 int8_sums(matrix, values, row, panel, sums);
               else
                 int4_sums(matrix, values, row, panel, sums);
               for (int half = 0; half < 2; ++half)
                 _mm256_storeu_si256(reinterpret_cast<__m256i*>(block + half * 8), sums[half]);
             });
}

}  // namespace fathom::products
