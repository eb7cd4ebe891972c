// Products with integer weights for processors without VNNI: a panel's 16 outputs are two vectors of sums.
//
// vpmaddubsw multiplies unsigned with signed bytes and adds pairs in 16 bits. 4-bit weights are the unsigned
// factor as they are stored: a group of 32 inputs adds up to 16 * 15 * 127 < 2^15, so that it stays in 16
// bits, and two instructions make 32 products, twice as many as two fused multiply-adds of floats. For 8-bit
// weights the weight's sign goes over to the activation, so that its magnitude, up to 128, is the unsigned
// factor; two such products fill the 16 bits.
#include <immintrin.h>

#include <type_traits>
#include <utility>

#include "kernels/product.h"
#include "kernels/row_blocks.h"

namespace fathom::products {
namespace {

__m256i load(const std::byte* from) { return _mm256_loadu_si256(reinterpret_cast<const __m256i*>(from)); }

// Four inputs of a row in each lane.
__m256i four(const std::byte* from) {
  return _mm256_set1_epi32(*reinterpret_cast<const std::int32_t*>(from));
}

// Sums stay as they are added up: left to itself the compiler adds the addends first, and 16 registers do not
// hold them all.
void in_order(__m256i& sum) { asm("" : "+x"(sum)); }

__m256i add_pairs(__m256i sums, __m256i pairs) {
  return _mm256_add_epi32(sums, _mm256_madd_epi16(pairs, _mm256_set1_epi16(1)));
}

// Calls body(0), ..., body(N - 1) with constants: what is indexed by them becomes registers early enough.
template <int N, typename Body>
[[gnu::always_inline]] inline void unrolled(Body&& body) {
  [&]<int... I>(std::integer_sequence<int, I...>) __attribute__((always_inline)) {
    (body(std::integral_constant<int, I>()), ...);
  }
  (std::make_integer_sequence<int, N>());
}

// R rows' sums for the 16 outputs of a panel.
template <int R>
struct Sums {
  __m256i of[R][2];
};

// Where R rows have inputs that lie within 64 bytes.
template <int R>
struct Inputs {
  Inputs(const Activations& x, std::int64_t row, std::int64_t first) {
    for (int r = 0; r < R; ++r) of[r] = x.data + tiled_offset(x.stride, row + r, first);
  }
  const std::byte* of[R];
};

// A single row is bound by reading the weights. Panels take turns by groups, in runs that the processor does
// not foresee: these are fetched so far ahead.
constexpr std::int64_t ahead = 2048;

// Adds `count` inputs' products with 8-bit weights.
template <int R>
[[gnu::always_inline]] inline void add_eight_bits(const Inputs<R>& x, std::int64_t count,
                                                  const std::byte* weights, Sums<R>& to) {
  Sums<R> sums = to;
  for (std::int64_t k = 0; k < count; k += 4) {
    const std::byte* stored = weights + k * panel_outputs;
    _mm_prefetch(reinterpret_cast<const char*>(stored + ahead), _MM_HINT_T0);
    const __m256i w[2] = {load(stored), load(stored + 32)};
    const __m256i magnitude[2] = {_mm256_abs_epi8(w[0]), _mm256_abs_epi8(w[1])};
    unrolled<R>([&](auto r) __attribute__((always_inline)) {
      const __m256i values = four(x.of[r] + k);
      unrolled<2>([&](auto half) __attribute__((always_inline)) {
        const __m256i pairs = _mm256_maddubs_epi16(magnitude[half], _mm256_sign_epi8(values, w[half]));
        sums.of[r][half] = add_pairs(sums.of[r][half], pairs);
        in_order(sums.of[r][half]);
      });
    });
  }
  to = sums;
}

// The sums of a group of `count` inputs, 32 at most, with 4-bit weights as they are stored.
template <int R>
[[gnu::always_inline]] inline void sum_four_bits(const Inputs<R>& x, std::int64_t count,
                                                 const std::byte* weights, Sums<R>& sums) {
  const __m256i low = _mm256_set1_epi8(15);
  Sums<R> pairs;  // in 16 bits
  unrolled<R>([&](auto r) __attribute__((always_inline)) {
    pairs.of[r][0] = pairs.of[r][1] = _mm256_setzero_si256();
  });
  for (std::int64_t k = 0; k < count; k += 8) {
    const std::byte* stored = weights + k * (panel_outputs / 2);
    _mm_prefetch(reinterpret_cast<const char*>(stored + ahead), _MM_HINT_T0);
    const __m256i both[2] = {load(stored), load(stored + 32)};
    unrolled<2>([&](auto part) __attribute__((always_inline)) {
      const auto unpacked = [&](__m256i pair) {
        return _mm256_and_si256(part == 0 ? pair : _mm256_srli_epi16(pair, 4), low);
      };
      const __m256i w[2] = {unpacked(both[0]), unpacked(both[1])};
      unrolled<R>([&](auto r) __attribute__((always_inline)) {
        const __m256i values = four(x.of[r] + k + 4 * part);
        unrolled<2>([&](auto half) __attribute__((always_inline)) {
          pairs.of[r][half] = _mm256_add_epi16(pairs.of[r][half], _mm256_maddubs_epi16(w[half], values));
          in_order(pairs.of[r][half]);
        });
      });
    });
  }
  unrolled<R>([&](auto r) __attribute__((always_inline)) {
    for (int half = 0; half < 2; ++half)
      sums.of[r][half] = _mm256_madd_epi16(pairs.of[r][half], _mm256_set1_epi16(1));
  });
}

// The sums of a group, of 4-bit weights with what these are stored too much taken away.
template <int R, bool four_bits>
[[gnu::always_inline]] inline void sum_group(const PackedMatrix& weight, const Activations& x,
                                             std::int64_t row, std::int64_t g, const std::byte* panel,
                                             Sums<R>& sums) {
  const Inputs<R> inputs(x, row, g * weight.group);
  if constexpr (!four_bits) {
    for (int r = 0; r < R; ++r) sums.of[r][0] = sums.of[r][1] = _mm256_setzero_si256();
    add_eight_bits<R>(inputs, weight.group, panel + g * weight.group * panel_outputs, sums);
  } else {
    sum_four_bits<R>(inputs, weight.group, panel + g * weight.group * (panel_outputs / 2), sums);
    for (int r = 0; r < R; ++r) {
      const auto surplus =
          _mm256_set1_epi32(weight.zero() * x.sums[group_offset(weight.groups(), row + r, g)]);
      for (int half = 0; half < 2; ++half) sums.of[r][half] = _mm256_sub_epi32(sums.of[r][half], surplus);
    }
  }
}

// Eight of a group's scales or minima.
__m256 group_values(const PackedMatrix& weight, const std::byte* of_group, int half) {
  if (!weight.half_scales) return _mm256_loadu_ps(reinterpret_cast<const float*>(of_group) + half * 8);
  return _mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(of_group) + half));
}

// Results [R][P panels][16]; in the order of operations of product_avx512.cpp, the same for any R and P.
template <int R, int P>
using Totals = __m256[R][P][2];

template <int R, int P, bool four_bits>
void group_totals(const PackedMatrix& weight, const Activations& x, std::int64_t row, const std::byte* panels,
                  Totals<R, P>& totals) {
  for (int r = 0; r < R; ++r)
    for (int p = 0; p < P; ++p) totals[r][p][0] = totals[r][p][1] = _mm256_setzero_ps();
  for (std::int64_t g = 0; g < weight.groups(); ++g) {
    for (int p = 0; p < P; ++p) {
      const std::byte* panel = panels + p * weight.panel_bytes();
      Sums<R> sums;
      sum_group<R, four_bits>(weight, x, row, g, panel, sums);
      for (int half = 0; half < 2; ++half) {
        const __m256 scales = group_values(weight, weight.group_scales(panel, g), half);
        for (int r = 0; r < R; ++r) {
          const __m256 factors =
              _mm256_mul_ps(scales, _mm256_set1_ps(x.scales[group_offset(weight.groups(), row + r, g)]));
          totals[r][p][half] =
              _mm256_fmadd_ps(_mm256_cvtepi32_ps(sums.of[r][half]), factors, totals[r][p][half]);
        }
        if (!weight.minima) continue;
        const __m256 minima = group_values(weight, weight.group_minima(panel, g), half);
        for (int r = 0; r < R; ++r)
          totals[r][p][half] = _mm256_fmadd_ps(
              minima, _mm256_set1_ps(x.scaled_sums[group_offset(weight.groups(), row + r, g)]),
              totals[r][p][half]);
      }
    }
  }
}

// Whole sums, to which int4's groups come with their multipliers.
template <int R, int P>
void whole_totals(const PackedMatrix& weight, const Activations& x, std::int64_t row, const std::byte* panels,
                  Totals<R, P>& totals) {
  Sums<R> whole[P];
  for (Sums<R>& panel : whole)
    for (int r = 0; r < R; ++r) panel.of[r][0] = panel.of[r][1] = _mm256_setzero_si256();
  if (weight.four_bits()) {
    for (std::int64_t g = 0; g < weight.groups(); ++g) {
      for (int p = 0; p < P; ++p) {
        const std::byte* panel = panels + p * weight.panel_bytes();
        Sums<R> sums;
        sum_group<R, true>(weight, x, row, g, panel, sums);
        for (int half = 0; half < 2; ++half) {
          const __m256i multipliers = _mm256_cvtepi8_epi32(_mm_loadl_epi64(
              reinterpret_cast<const __m128i*>(weight.multipliers(panel) + g * panel_outputs + half * 8)));
          for (int r = 0; r < R; ++r)
            whole[p].of[r][half] =
                _mm256_add_epi32(whole[p].of[r][half], _mm256_mullo_epi32(sums.of[r][half], multipliers));
        }
      }
    }
  } else {
    constexpr std::int64_t together = 64;  // inputs of a row that lie side by side
    for (std::int64_t k = 0; k < weight.padded_in; k += together) {
      const Inputs<R> inputs(x, row, k);
      const std::int64_t left = weight.padded_in - k, count = left < together ? left : together;
      for (int p = 0; p < P; ++p) {
        Sums<R> sums = whole[p];
        add_eight_bits<R>(inputs, count, panels + p * weight.panel_bytes() + k * panel_outputs, sums);
        whole[p] = sums;
      }
    }
  }
  for (int p = 0; p < P; ++p) {
    for (int half = 0; half < 2; ++half) {
      const __m256 scales = _mm256_loadu_ps(weight.scales(panels + p * weight.panel_bytes()) + half * 8);
      for (int r = 0; r < R; ++r) {
        const __m256 of_row = _mm256_set1_ps(x.scales[row + r]);
        totals[r][p][half] =
            _mm256_mul_ps(_mm256_mul_ps(_mm256_cvtepi32_ps(whole[p].of[r][half]), of_row), scales);
      }
    }
  }
}

template <int R, int P>
void block_of(const PackedMatrix& weight, const Activations& x, std::int64_t row, std::int64_t panel,
              const Destination& to) {
  const std::byte* panels = weight.panel(panel);
  Totals<R, P> totals;
  if (!weight.grouped())
    whole_totals<R, P>(weight, x, row, panels, totals);
  else if (weight.four_bits())
    group_totals<R, P, true>(weight, x, row, panels, totals);
  else
    group_totals<R, P, false>(weight, x, row, panels, totals);
  write_block(weight, to, {row, R, panel, P, totals, nullptr});
}

// 4 rows of a panel are 8 sums, and leave half of the 16 registers to what is multiplied.
template <int P>
void rows_of(const PackedMatrix& weight, const Activations& x, Range rows, std::int64_t panel,
             const Destination& to) {
  in_row_blocks<4>(rows, [&](auto count, std::int64_t row) {
    block_of<decltype(count)::value, P>(weight, x, row, panel, to);
  });
}

}  // namespace

void integers_avx2(const PackedMatrix& weight, const Activations& x, Range rows, Range panels,
                   const Destination& to, std::byte*) {
  std::int64_t panel = panels.first;
  // Few rows are bound by reading the weights, and several streams of memory are faster than one.
  if (rows.last - rows.first <= 4)
    for (; panel + 8 <= panels.last; panel += 8) rows_of<8>(weight, x, rows, panel, to);
  for (; panel + 2 <= panels.last; panel += 2) rows_of<2>(weight, x, rows, panel, to);
  if (panel < panels.last) rows_of<1>(weight, x, rows, panel, to);
}

}  // namespace fathom::products
