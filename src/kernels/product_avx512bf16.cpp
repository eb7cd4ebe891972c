// Products of bf16 by vdpbf16ps, which multiplies two neighbouring inputs and adds both to a sum.
#include <immintrin.h>

#include <cstring>

#include "kernels/product.h"
#include "kernels/row_blocks.h"

namespace fathom::products {
namespace {

// Inputs that are added up by themselves before they join the rest (product_floats.cpp), and what four panels
// have of them, 12 KB, stays in the L1 cache while rows go by.
constexpr std::int64_t stretch = 96;
// Rows whose results, 15 KB, stay there, too.
constexpr std::int64_t chunk = 60;

// Two neighbouring inputs of a row in each lane.
__m512bh two(const std::byte* from) {
  std::int32_t pair = 0;
  std::memcpy(&pair, from, sizeof pair);
  return reinterpret_cast<__m512bh>(_mm512_set1_epi32(pair));
}

// Adds products of R rows' `count` inputs with P panels to results[R][P][16], rows of results `apart` floats
// apart.
template <int R, int P>
void add_stretch(const std::byte* x, std::int64_t x_stride, std::int64_t count, const std::byte* panels,
                 std::int64_t panel_bytes, float* results, std::int64_t apart) {
  __m512 sums[R][P];
#pragma GCC unroll 8
  for (int r = 0; r < R; ++r)
#pragma GCC unroll 8
    for (int p = 0; p < P; ++p) sums[r][p] = _mm512_setzero_ps();
  for (std::int64_t k = 0; k < count; k += 2) {
    __m512bh w[P];
#pragma GCC unroll 8
    for (int p = 0; p < P; ++p)
      w[p] = reinterpret_cast<__m512bh>(_mm512_loadu_si512(panels + p * panel_bytes + k * 32));
#pragma GCC unroll 8
    for (int r = 0; r < R; ++r) {
      const __m512bh values = two(x + r * x_stride + k * 2);
#pragma GCC unroll 8
      for (int p = 0; p < P; ++p) sums[r][p] = _mm512_dpbf16_ps(sums[r][p], w[p], values);
    }
  }
#pragma GCC unroll 8
  for (int r = 0; r < R; ++r)
#pragma GCC unroll 8
    for (int p = 0; p < P; ++p) {
      float* to = results + r * apart + p * panel_outputs;
      _mm512_store_ps(to, _mm512_add_ps(_mm512_load_ps(to), sums[r][p]));
    }
}

// 6 rows x 4 panels are 24 sums of 32 registers; a row by itself takes 8 panels, whose streams draw most from
// memory.
template <int P>
void panels_of(const PackedMatrix& weight, const Activations& x, Range rows, std::int64_t panel,
               const Destination& to) {
  constexpr int most = P <= 4 ? 6 : 1;
  constexpr std::int64_t apart = P * panel_outputs;
  alignas(64) float block[chunk * apart];
  for (std::int64_t first = rows.first; first < rows.last; first += chunk) {
    const std::int64_t count = rows.last - first < chunk ? rows.last - first : chunk;
    std::memset(block, 0, static_cast<std::size_t>(count * apart) * sizeof(float));
    for (std::int64_t k = 0; k < weight.padded_in; k += stretch) {
      const std::int64_t left = weight.padded_in - k;
      in_row_blocks<most>({0, count}, [&](auto size, std::int64_t row) {
        add_stretch<decltype(size)::value, P>(x.data + (first + row) * x.stride + k * 2, x.stride,
                                              left < stretch ? left : stretch, weight.panel(panel) + k * 32,
                                              weight.panel_bytes(), block + row * apart, apart);
      });
    }
    write_block(weight, to, {first, count, panel, P, block, nullptr});
  }
}

}  // namespace

void bf16_avx512bf16(const PackedMatrix& weight, const Activations& x, Range rows, Range panels,
                     const Destination& to, std::byte*) {
  std::int64_t panel = panels.first;
  if (rows.last - rows.first == 1)
    for (; panel + 8 <= panels.last; panel += 8) panels_of<8>(weight, x, rows, panel, to);
  for (; panel + 4 <= panels.last; panel += 4) panels_of<4>(weight, x, rows, panel, to);
  for (; panel + 2 <= panels.last; panel += 2) panels_of<2>(weight, x, rows, panel, to);
  if (panel < panels.last) panels_of<1>(weight, x, rows, panel, to);
}

}  // namespace fathom::products
