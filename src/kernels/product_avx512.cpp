// Products of a few rows with int8 and int4 weights by VNNI: bound by reading the weights, which are read
// once for up to four rows, from several panels side by side.
#include <immintrin.h>

#include "kernels/product.h"

namespace fathom::products {
namespace {

template <int R, int P>
void finish(const PackedMatrix& weight, const Activations& x, std::int64_t row, std::int64_t panel,
            const __m512i (&sums)[R][P], const Destination& to) {
  alignas(64) std::int32_t block[R * P * panel_outputs];
  for (int r = 0; r < R; ++r)
    for (int p = 0; p < P; ++p) _mm512_store_si512(block + (r * P + p) * panel_outputs, sums[r][p]);
  write_block(weight, to, {row, R, panel, P, block, x.scales});
}

// vpdpbusd multiplies unsigned with signed bytes. Activations become unsigned by adding 128, which the
// panel's offsets take away again.
template <int R, int P>
void int8_block(const PackedMatrix& weight, const Activations& x, std::int64_t row, std::int64_t panel,
                const Destination& to) {
  const std::int64_t panel_bytes = weight.panel_bytes();
  const std::byte* weights = weight.panel(panel);
  const std::byte* values[R];
  for (int r = 0; r < R; ++r) values[r] = x.data + tiled_offset(x.stride, row + r, 0);
  __m512i sums[R][P];
  for (int r = 0; r < R; ++r)
    for (int p = 0; p < P; ++p) sums[r][p] = _mm512_loadu_si512(weight.offsets(weights + p * panel_bytes));
  const __m512i flip = _mm512_set1_epi8(-128);
  for (std::int64_t k = 0; k < weight.padded_in; k += 4) {
    __m512i four[R];
    for (int r = 0; r < R; ++r)
      four[r] = _mm512_xor_si512(
          _mm512_set1_epi32(*reinterpret_cast<const std::int32_t*>(values[r] + tiled_offset(0, 0, k))), flip);
#pragma GCC unroll 8
    for (int p = 0; p < P; ++p) {
      const __m512i w = _mm512_loadu_si512(weights + p * panel_bytes + k * 16);
#pragma GCC unroll 4
      for (int r = 0; r < R; ++r) sums[r][p] = _mm512_dpbusd_epi32(sums[r][p], four[r], w);
    }
  }
  finish<R, P>(weight, x, row, panel, sums, to);
}

// The sum over a group of 32 inputs starts at -8 times the sum of its activations, since a stored 0 stands
// for -8, and is multiplied with the group's multiplier when it is added to the total.
template <int R, int P>
void int4_block(const PackedMatrix& weight, const Activations& x, std::int64_t row, std::int64_t panel,
                const Destination& to) {
  const std::int64_t panel_bytes = weight.panel_bytes(), groups = weight.groups();
  const std::byte* weights = weight.panel(panel);
  __m512i totals[R][P];
  for (int r = 0; r < R; ++r)
    for (int p = 0; p < P; ++p) totals[r][p] = _mm512_setzero_si512();
  const __m512i low = _mm512_set1_epi8(15);
  for (std::int64_t g = 0; g < groups; ++g) {
    __m512i start[R];
    for (int r = 0; r < R; ++r) start[r] = _mm512_set1_epi32(-8 * x.sums[(row + r) * groups + g]);
#pragma GCC unroll 8
    for (int p = 0; p < P; ++p) {
      const std::byte* own = weights + p * panel_bytes;
      const __m512i multipliers = _mm512_cvtepi8_epi32(
          _mm_loadu_si128(reinterpret_cast<const __m128i*>(weight.multipliers(own) + g * panel_outputs)));
      __m512i sums[R];
      for (int r = 0; r < R; ++r) sums[r] = start[r];
#pragma GCC unroll 4
      for (int eight = 0; eight < 4; ++eight) {
        const __m512i both = _mm512_loadu_si512(own + (g * 4 + eight) * 64);
        const __m512i first = _mm512_and_si512(both, low);
        const __m512i second = _mm512_and_si512(_mm512_srli_epi16(both, 4), low);
#pragma GCC unroll 4
        for (int r = 0; r < R; ++r) {
          const auto* values = reinterpret_cast<const std::int32_t*>(
              x.data + tiled_offset(x.stride, row + r, g * 32 + eight * 8));
          sums[r] = _mm512_dpbusd_epi32(sums[r], first, _mm512_set1_epi32(values[0]));
          sums[r] = _mm512_dpbusd_epi32(sums[r], second, _mm512_set1_epi32(values[1]));
        }
      }
      for (int r = 0; r < R; ++r)
        totals[r][p] = _mm512_add_epi32(totals[r][p], _mm512_mullo_epi32(sums[r], multipliers));
    }
  }
  finish<R, P>(weight, x, row, panel, totals, to);
}

template <int R, int P>
void block_of(const PackedMatrix& weight, const Activations& x, std::int64_t row, std::int64_t panel,
              const Destination& to) {
  if (weight.type == Compute::int8)
    int8_block<R, P>(weight, x, row, panel, to);
  else
    int4_block<R, P>(weight, x, row, panel, to);
}

// 4 rows x 4 panels are 16 sums; up to two rows take 8 panels, whose streams draw most from memory.
template <int P>
void rows_of(const PackedMatrix& weight, const Activations& x, Range rows, std::int64_t panel,
             const Destination& to) {
  std::int64_t row = rows.first;
  for (; row + 4 <= rows.last; row += 4) block_of<4, P>(weight, x, row, panel, to);
  switch (rows.last - row) {
    case 3:
      return block_of<3, P>(weight, x, row, panel, to);
    case 2:
      return block_of<2, P>(weight, x, row, panel, to);
    case 1:
      return block_of<1, P>(weight, x, row, panel, to);
    default:
      return;
  }
}

}  // namespace

void integers_avx512(const PackedMatrix& weight, const Activations& x, Range rows, Range panels,
                     const Destination& to, std::byte*) {
  const std::int64_t count = rows.last - rows.first;
  std::int64_t panel = panels.first;
  if (count == 1)
    for (; panel + 8 <= panels.last; panel += 8) block_of<1, 8>(weight, x, rows.first, panel, to);
  if (count == 2)
    for (; panel + 8 <= panels.last; panel += 8) block_of<2, 8>(weight, x, rows.first, panel, to);
  for (; panel + 4 <= panels.last; panel += 4) rows_of<4>(weight, x, rows, panel, to);
  for (; panel + 2 <= panels.last; panel += 2) rows_of<2>(weight, x, rows, panel, to);
  if (panel < panels.last) rows_of<1>(weight, x, rows, panel, to);
}

}  // namespace fathom::products
