// Products of float32 rows with weights in float32 or bf16, by vectors of float32.
#include <algorithm>

#include "kernels/product.h"
#include "kernels/targets.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/product_floats.cpp"
#include <hwy/foreach_target.h>
// After foreach_target, as Highway wants it.
#include "kernels/product_tile-inl.h"

HWY_BEFORE_NAMESPACE();
namespace fathom::simd::HWY_NAMESPACE {

// Vectors of a panel: 1 of AVX-512's, 2 of AVX2's, 4 of SSE's and NEON's.
inline constexpr std::size_t panel_vectors = panel_outputs / hn::MaxLanes(D());

// Inputs that are added up by themselves before they join the rest. One float32 sum of 1,536 products in a
// row strays far enough for a real model's logits to differ by 3e-3 from those of sums in a better order.
inline constexpr std::size_t stretch = 96;

// R rows times P panels, from row `row` and panel `panel` on.
template <std::size_t R, std::size_t P, class T>
HWY_INLINE void block_of(const PackedMatrix& weight, const Activations& x, std::int64_t row,
                         std::int64_t panel, const Destination& to) {
  constexpr std::size_t outputs = P * panel_outputs;
  alignas(64) float block[R * outputs] = {};
  alignas(64) float part[R * outputs];
  const auto* rows = reinterpret_cast<const float*>(x.data + row * x.stride);
  const auto* weights = reinterpret_cast<const T*>(weight.panel(panel));
  const auto inputs = static_cast<std::size_t>(weight.padded_in);
  const D d;
  for (std::size_t k = 0; k < inputs; k += stretch) {
    // k inputs of a panel are 16 k elements in either type.
    product_tile<R, panel_vectors, P>(
        std::min(stretch, inputs - k), rows + k, static_cast<std::size_t>(x.stride) / sizeof(float),
        weights + k * panel_outputs, panel_outputs,
        static_cast<std::size_t>(weight.panel_bytes()) / sizeof(T), part, outputs, false);
    for (std::size_t i = 0; i < R * outputs; i += hn::Lanes(d))
      hn::Store(hn::Add(hn::Load(d, block + i), hn::Load(d, part + i)), d, block + i);
  }
  write_block(weight, to, {row, R, panel, P, block, nullptr});
}

// The rows that do not fill a block, with the same panels.
template <std::size_t P, class T>
void rest_of(const PackedMatrix& weight, const Activations& x, Range rows, std::int64_t panel,
             const Destination& to) {
  switch (rows.last - rows.first) {
    case 5:
      return block_of<5, P, T>(weight, x, rows.first, panel, to);
    case 4:
      return block_of<4, P, T>(weight, x, rows.first, panel, to);
    case 3:
      return block_of<3, P, T>(weight, x, rows.first, panel, to);
    case 2:
      return block_of<2, P, T>(weight, x, rows.first, panel, to);
    case 1:
      return block_of<1, P, T>(weight, x, rows.first, panel, to);
    default:
      return;
  }
}

// 6 rows x 4 panels of one vector are 24 sums, with 4 vectors of weights and a broadcast 29 of AVX-512's 32
// registers; 3 x 2 panels of two vectors fill AVX2's 16 likewise. Two panels at least, because a gate and its
// up projection come together.
inline constexpr std::size_t block_panels = panel_vectors == 1 ? 4 : 2;
inline constexpr std::size_t block_rows = panel_vectors == 1 ? 6 : panel_vectors == 2 ? 3 : 1;

template <std::size_t P, class T>
void rows_of(const PackedMatrix& weight, const Activations& x, Range rows, std::int64_t panel,
             const Destination& to) {
  constexpr auto step = static_cast<std::int64_t>(block_rows);
  std::int64_t row = rows.first;
  for (; row + step <= rows.last; row += step) block_of<block_rows, P, T>(weight, x, row, panel, to);
  rest_of<P, T>(weight, x, {row, rows.last}, panel, to);
}

// A single row takes 8 panels: it is bound by reading them, and eight streams of memory are faster than one
// (packed_matrix.h).
template <class T>
void product_of(const PackedMatrix& weight, const Activations& x, Range rows, Range panels,
                const Destination& to) {
  constexpr auto step = static_cast<std::int64_t>(block_panels);
  std::int64_t panel = panels.first;
  if (rows.last - rows.first == 1)
    for (; panel + 8 <= panels.last; panel += 8) block_of<1, 8, T>(weight, x, rows.first, panel, to);
  for (; panel + step <= panels.last; panel += step) rows_of<block_panels, T>(weight, x, rows, panel, to);
  for (; panel + 2 <= panels.last; panel += 2) rows_of<2, T>(weight, x, rows, panel, to);
  if (panel < panels.last) rows_of<1, T>(weight, x, rows, panel, to);
}

void floats(const PackedMatrix& weight, const Activations& x, Range rows, Range panels,
            const Destination& to) {
  if (weight.type == Compute::f32)
    product_of<float>(weight, x, rows, panels, to);
  else
    product_of<std::uint16_t>(weight, x, rows, panels, to);
}

}  // namespace fathom::simd::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace fathom {
namespace simd {
HWY_EXPORT(floats);
}

void products::floats(const PackedMatrix& weight, const Activations& x, Range rows, Range panels,
                      const Destination& to, std::byte*) {
  using namespace simd;
  HWY_DYNAMIC_DISPATCH(floats)(weight, x, rows, panels, to);
}

}  // namespace fathom
#endif
