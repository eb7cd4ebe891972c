// Products of a few rows with integer weights by VNNI: bound by reading the weights, which are read once for
// up to four rows, from several panels side by side.
#include <immintrin.h>

#include "kernels/group_values.h"
#include "kernels/product.h"
#include "kernels/row_blocks.h"

namespace fathom::products {
namespace {

// Four inputs of a row in each lane.
__m512i four(const std::byte* from) {
  return _mm512_set1_epi32(*reinterpret_cast<const std::int32_t*>(from));
}

// vpdpbusd multiplies unsigned with signed bytes. Activations become unsigned by adding 128, which the
// panel's offsets take away again.
template <int R, int P>
void int8_totals(const PackedMatrix& weight, const Activations& x, std::int64_t row, const std::byte* weights,
                 __m512 totals[R][P]) {
  const std::int64_t panel_bytes = weight.panel_bytes();
  __m512i sums[R][P];
  for (int r = 0; r < R; ++r)
    for (int p = 0; p < P; ++p) sums[r][p] = _mm512_loadu_si512(weight.offsets(weights + p * panel_bytes));
  const __m512i flip = _mm512_set1_epi8(-128);
  for (std::int64_t k = 0; k < weight.padded_in; k += 4) {
    __m512i values[R];
    for (int r = 0; r < R; ++r)
      values[r] = _mm512_xor_si512(four(x.data + tiled_offset(x.stride, row + r, k)), flip);
#pragma GCC unroll 8
    for (int p = 0; p < P; ++p) {
      const __m512i w = _mm512_loadu_si512(weights + p * panel_bytes + k * 16);
#pragma GCC unroll 4
      for (int r = 0; r < R; ++r) sums[r][p] = _mm512_dpbusd_epi32(sums[r][p], values[r], w);
    }
  }
  for (int r = 0; r < R; ++r)
    for (int p = 0; p < P; ++p) totals[r][p] = _mm512_cvtepi32_ps(sums[r][p]);
}

// Where R rows have a group, which lies within 64 bytes, and with what its sums begin: stored weights are
// `zero` more than they stand for.
template <int R>
struct Group {
  Group(const PackedMatrix& weight, const Activations& x, std::int64_t row, std::int64_t g,
        std::int32_t zero) {
    for (int r = 0; r < R; ++r) {
      at[r] = group_offset(weight.groups(), row + r, g);
      values[r] = x.data + tiled_offset(x.stride, row + r, g * weight.group);
      start[r] = _mm512_set1_epi32(-zero * x.sums[at[r]]);
    }
  }
  std::int64_t at[R];  // in Activations::sums
  const std::byte* values[R];
  __m512i start[R];
};

// The sums of a group of `size` inputs, unsigned weights times signed activations. Inlined, so that they stay
// in registers.
template <int R, bool four_bits>
[[gnu::always_inline]] inline void sum_group(const Group<R>& group, std::int64_t size,
                                             const std::byte* weights, __m512i sums[R]) {
  const __m512i low = _mm512_set1_epi8(15), flip = _mm512_set1_epi8(-128);
  constexpr int step = four_bits ? 8 : 4;  // inputs in 64 bytes
  // Panels take turns by groups, in short runs that the processor does not foresee as it does int8's:
  // fetching this far ahead makes a single row 1.05 (8 bits) to 1.2 times (4 bits) as fast.
  constexpr std::int64_t ahead = 2048;
  for (int r = 0; r < R; ++r) sums[r] = group.start[r];
  for (std::int64_t k = 0; k < size; k += 16, weights += 16 / step * 64) {
#pragma GCC unroll 4
    for (int i = 0; i < 16; i += step) {
      _mm_prefetch(reinterpret_cast<const char*>(weights + i / step * 64 + ahead), _MM_HINT_T0);
      const __m512i stored = _mm512_loadu_si512(weights + i / step * 64);
      const __m512i first = four_bits ? _mm512_and_si512(stored, low) : _mm512_xor_si512(stored, flip);
      for (int r = 0; r < R; ++r)
        sums[r] = _mm512_dpbusd_epi32(sums[r], first, four(group.values[r] + k + i));
      if constexpr (four_bits) {
        const __m512i second = _mm512_and_si512(_mm512_srli_epi16(stored, 4), low);
        for (int r = 0; r < R; ++r)
          sums[r] = _mm512_dpbusd_epi32(sums[r], second, four(group.values[r] + k + i + 4));
      }
    }
  }
}

// The sum over a group starts at -8 times the sum of its activations, since a stored 0 stands for -8, and is
// multiplied with the group's multiplier when it is added to the total.
template <int R, int P>
void int4_totals(const PackedMatrix& weight, const Activations& x, std::int64_t row, const std::byte* weights,
                 __m512 totals[R][P]) {
  __m512i whole[R][P];
  for (int r = 0; r < R; ++r)
    for (int p = 0; p < P; ++p) whole[r][p] = _mm512_setzero_si512();
  for (std::int64_t g = 0; g < weight.groups(); ++g) {
    const Group<R> group(weight, x, row, g, 8);
#pragma GCC unroll 8
    for (int p = 0; p < P; ++p) {
      const std::byte* own = weights + p * weight.panel_bytes();
      __m512i sums[R];
      sum_group<R, true>(group, weight.group, own + g * weight.group * 8, sums);
      const __m512i multipliers = _mm512_cvtepi8_epi32(
          _mm_loadu_si128(reinterpret_cast<const __m128i*>(weight.multipliers(own) + g * panel_outputs)));
      for (int r = 0; r < R; ++r)
        whole[r][p] = _mm512_add_epi32(whole[r][p], _mm512_mullo_epi32(sums[r], multipliers));
    }
  }
  for (int r = 0; r < R; ++r)
    for (int p = 0; p < P; ++p) totals[r][p] = _mm512_cvtepi32_ps(whole[r][p]);
}

// total = sum * (scale * the activations' scale) + total, then total = minimum * scaled sum of the
// activations
// + total, group by group: every kernel of this level keeps to this order, so that a row's results are the
// same beside any others.
template <int R, int P, bool four_bits>
void group_totals(const PackedMatrix& weight, const Activations& x, std::int64_t row,
                  const std::byte* weights, __m512 totals[R][P]) {
  for (int r = 0; r < R; ++r)
    for (int p = 0; p < P; ++p) totals[r][p] = _mm512_setzero_ps();
  for (std::int64_t g = 0; g < weight.groups(); ++g) {
    const Group<R> group(weight, x, row, g, four_bits ? weight.zero() : 128);
#pragma GCC unroll 8
    for (int p = 0; p < P; ++p) {
      const std::byte* own = weights + p * weight.panel_bytes();
      __m512i sums[R];
      sum_group<R, four_bits>(group, weight.group, own + g * weight.group * (four_bits ? 8 : 16), sums);
      const __m512 scales = group_values(weight, weight.group_scales(own, g));
      for (int r = 0; r < R; ++r) {
        const __m512 factors = _mm512_mul_ps(scales, _mm512_set1_ps(x.scales[group.at[r]]));
        totals[r][p] = _mm512_fmadd_ps(_mm512_cvtepi32_ps(sums[r]), factors, totals[r][p]);
      }
      if (!weight.minima) continue;
      const __m512 minima = group_values(weight, weight.group_minima(own, g));
      for (int r = 0; r < R; ++r)
        totals[r][p] = _mm512_fmadd_ps(minima, _mm512_set1_ps(x.scaled_sums[group.at[r]]), totals[r][p]);
    }
  }
}

template <int R, int P>
void block_of(const PackedMatrix& weight, const Activations& x, std::int64_t row, std::int64_t panel,
              const Destination& to) {
  const std::byte* weights = weight.panel(panel);
  __m512 totals[R][P];
  if (weight.type == Compute::int8)
    int8_totals<R, P>(weight, x, row, weights, totals);
  else if (weight.type == Compute::int4)
    int4_totals<R, P>(weight, x, row, weights, totals);
  else if (weight.four_bits())
    group_totals<R, P, true>(weight, x, row, weights, totals);
  else
    group_totals<R, P, false>(weight, x, row, weights, totals);
  alignas(64) float block[R * P * panel_outputs];
  for (int r = 0; r < R; ++r) {
    for (int p = 0; p < P; ++p) {
      if (!weight.grouped())
        totals[r][p] = _mm512_mul_ps(_mm512_mul_ps(totals[r][p], _mm512_set1_ps(x.scales[row + r])),
                                     _mm512_loadu_ps(weight.scales(weights + p * weight.panel_bytes())));
      _mm512_store_ps(block + (r * P + p) * panel_outputs, totals[r][p]);
    }
  }
  write_block(weight, to, {row, R, panel, P, block, nullptr});
}

// 4 rows x 4 panels are 16 sums; up to two rows take 8 panels, whose streams draw most from memory.
template <int P>
void rows_of(const PackedMatrix& weight, const Activations& x, Range rows, std::int64_t panel,
             const Destination& to) {
  in_row_blocks<4>(rows, [&](auto count, std::int64_t row) {
    block_of<decltype(count)::value, P>(weight, x, row, panel, to);
  });
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
