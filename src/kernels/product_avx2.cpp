// Products with integer weights for processors without VNNI: a panel's 16 outputs are two vectors of sums.
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

// Adds the products of inputs [k, last). The sign of a weight goes over to the activation, so that its
// magnitude, up to 128, is the unsigned factor: 128 * 127 < 2^14.
void add_eight_bits(const Activations& x, std::int64_t row, std::int64_t k, std::int64_t last,
                    const std::byte* panel, __m256i sums[2]) {
  for (; k < last; k += 4) {
    const __m256i values = four_of(x, row, k);
    for (int half = 0; half < 2; ++half) {
      const __m256i w = load(panel + k * 16 + half * 32);
      sums[half] = add_products(sums[half], _mm256_abs_epi8(w), _mm256_sign_epi8(values, w));
    }
  }
}

// The same with 4-bit weights as they are stored: the sums begin at what this has too much.
void add_four_bits(const Activations& x, std::int64_t row, std::int64_t k, std::int64_t last,
                   const std::byte* panel, __m256i sums[2]) {
  const __m256i low = _mm256_set1_epi8(15);
  for (; k < last; k += 8) {
    const __m256i first = four_of(x, row, k), second = four_of(x, row, k + 4);
    for (int half = 0; half < 2; ++half) {
      const __m256i both = load(panel + k * 8 + half * 32);
      sums[half] = add_products(sums[half], _mm256_and_si256(both, low), first);
      sums[half] = add_products(sums[half], _mm256_and_si256(_mm256_srli_epi16(both, 4), low), second);
    }
  }
}

void add_group(const PackedMatrix& weight, const Activations& x, std::int64_t row, std::int64_t g,
               const std::byte* panel, __m256i sums[2]) {
  const std::int64_t first = g * weight.group, last = first + weight.group;
  if (!weight.four_bits()) {
    sums[0] = sums[1] = _mm256_setzero_si256();
    return add_eight_bits(x, row, first, last, panel, sums);
  }
  sums[0] = sums[1] = _mm256_set1_epi32(-weight.zero() * x.sums[group_offset(weight.groups(), row, g)]);
  add_four_bits(x, row, first, last, panel, sums);
}

// Eight of a group's scales or minima.
__m256 group_values(const PackedMatrix& weight, const std::byte* of_group, int half) {
  if (!weight.half_scales) return _mm256_loadu_ps(reinterpret_cast<const float*>(of_group) + half * 8);
  return _mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(of_group) + half));
}

// In the order of operations of product_avx512.cpp.
void grouped_row(const PackedMatrix& weight, const Activations& x, std::int64_t row, const std::byte* panel,
                 float* results) {
  __m256 totals[2] = {_mm256_setzero_ps(), _mm256_setzero_ps()};
  for (std::int64_t g = 0; g < weight.groups(); ++g) {
    const std::int64_t at = group_offset(weight.groups(), row, g);
    __m256i sums[2];
    add_group(weight, x, row, g, panel, sums);
    for (int half = 0; half < 2; ++half) {
      const __m256 scales = group_values(weight, weight.group_scales(panel, g), half);
      totals[half] = _mm256_fmadd_ps(_mm256_cvtepi32_ps(sums[half]),
                                     _mm256_mul_ps(scales, _mm256_set1_ps(x.scales[at])), totals[half]);
      if (weight.minima)
        totals[half] = _mm256_fmadd_ps(group_values(weight, weight.group_minima(panel, g), half),
                                       _mm256_set1_ps(x.scaled_sums[at]), totals[half]);
    }
  }
  for (int half = 0; half < 2; ++half) _mm256_storeu_ps(results + half * 8, totals[half]);
}

void whole_row(const PackedMatrix& weight, const Activations& x, std::int64_t row, const std::byte* panel,
               float* results) {
  __m256i totals[2] = {_mm256_setzero_si256(), _mm256_setzero_si256()};
  if (!weight.four_bits()) add_eight_bits(x, row, 0, weight.padded_in, panel, totals);
  for (std::int64_t g = 0; weight.four_bits() && g < weight.groups(); ++g) {
    __m256i sums[2];
    add_group(weight, x, row, g, panel, sums);
    for (int half = 0; half < 2; ++half) {
      const __m256i multipliers = _mm256_cvtepi8_epi32(_mm_loadl_epi64(
          reinterpret_cast<const __m128i*>(weight.multipliers(panel) + g * panel_outputs + half * 8)));
      totals[half] = _mm256_add_epi32(totals[half], _mm256_mullo_epi32(sums[half], multipliers));
    }
  }
  for (int half = 0; half < 2; ++half) {
    const __m256 scaled = _mm256_mul_ps(_mm256_cvtepi32_ps(totals[half]), _mm256_set1_ps(x.scales[row]));
    _mm256_storeu_ps(results + half * 8,
                     _mm256_mul_ps(scaled, _mm256_loadu_ps(weight.scales(panel) + half * 8)));
  }
}

}  // namespace

void integers_avx2(const PackedMatrix& weight, const Activations& x, Range rows, Range panels,
                   const Destination& to, std::byte*) {
  row_by_row(weight, x, rows, panels, to, weight.grouped() ? grouped_row : whole_row);
}

}  // namespace fathom::products
