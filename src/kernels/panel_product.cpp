// Products of a few rows with a weight in panels: bound by reading the weight, which is read once.
#include <algorithm>

#include "kernels/simd.h"
#include "kernels/targets.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/panel_product.cpp"
#include <hwy/foreach_target.h>
// After foreach_target, as Highway wants it.
#include "kernels/product_tile-inl.h"

HWY_BEFORE_NAMESPACE();
namespace fathom::simd::HWY_NAMESPACE {

// R rows times P panels that have all 64 outputs.
template <std::size_t R, std::size_t P, class T>
HWY_INLINE void panels_tile(const PanelMatrix& weight, const T* panels, const float* x, std::size_t x_stride,
                            float* y, bool accumulate) {
  constexpr std::size_t width = tile_vectors * hn::MaxLanes(D());
  constexpr std::size_t paired = sizeof(float) / sizeof(T);
  for (std::size_t column = 0; column < panel_outputs; column += width)
    product_tile<R, tile_vectors, P>(static_cast<std::size_t>(weight.in), x, x_stride,
                                     panels + column * paired, panel_outputs,
                                     static_cast<std::size_t>(weight.panel_elements()), y + column,
                                     static_cast<std::size_t>(weight.out), accumulate);
}

// The last panel, where it has fewer than 64 outputs.
template <class T>
void partial_panel(const PanelMatrix& weight, const T* panel, std::size_t rows, const float* x,
                   std::size_t x_stride, float* y, bool accumulate) {
  const auto out = static_cast<std::size_t>(weight.out);
  const std::size_t outputs = out % panel_outputs;
  alignas(64) float sums[tile_rows * panel_outputs];
  for (std::size_t r = 0; r < rows; r += tile_rows) {
    const std::size_t count = std::min(tile_rows, rows - r);
    product(count, static_cast<std::size_t>(weight.in), x + r * x_stride, x_stride, panel, panel_outputs,
            panel_outputs, sums, panel_outputs, false);
    for (std::size_t i = 0; i < count; ++i)
      for (std::size_t o = 0; o < outputs; ++o) {
        float& result = y[(r + i) * out + o];
        result = sums[i * panel_outputs + o] + (accumulate ? result : 0.0F);
      }
  }
}

template <class T>
HWY_INLINE void panels_of(const PanelMatrix& weight, const T* data, std::size_t first, std::size_t last,
                          std::size_t rows, const float* x, std::size_t x_stride, float* y, bool accumulate) {
  const auto elements = static_cast<std::size_t>(weight.panel_elements());
  const std::size_t whole = std::min(last, static_cast<std::size_t>(weight.out / panel_outputs));
  std::size_t p = first;
  // Up to three rows leave registers for several panels side by side.
  if (rows == 1)
    for (; p + 4 <= whole; p += 4)
      panels_tile<1, 4>(weight, data + p * elements, x, x_stride, y + p * panel_outputs, accumulate);
  if (rows == 2)
    for (; p + 2 <= whole; p += 2)
      panels_tile<2, 2>(weight, data + p * elements, x, x_stride, y + p * panel_outputs, accumulate);
  if (rows == 3)
    for (; p + 2 <= whole; p += 2)
      panels_tile<3, 2>(weight, data + p * elements, x, x_stride, y + p * panel_outputs, accumulate);
  for (; p < whole; ++p)
    product(rows, static_cast<std::size_t>(weight.in), x, x_stride, data + p * elements, panel_outputs,
            panel_outputs, y + p * panel_outputs, static_cast<std::size_t>(weight.out), accumulate);
  if (p < last)
    partial_panel(weight, data + p * elements, rows, x, x_stride, y + p * panel_outputs, accumulate);
}

void panel_product(const PanelMatrix& weight, std::size_t first, std::size_t last, std::size_t rows,
                   const float* x, std::size_t x_stride, float* y, bool accumulate) {
  if (weight.type == Compute::f32)
    panels_of(weight, weight.data.as<float>(), first, last, rows, x, x_stride, y, accumulate);
  else
    panels_of(weight, weight.data.as<std::uint16_t>(), first, last, rows, x, x_stride, y, accumulate);
}

}  // namespace fathom::simd::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace fathom::simd {

HWY_EXPORT(panel_product);

void panel_product(const PanelMatrix& weight, std::size_t first, std::size_t last, std::size_t rows,
                   const float* x, std::size_t x_stride, float* y, bool accumulate) {
  HWY_DYNAMIC_DISPATCH(panel_product)(weight, first, last, rows, x, x_stride, y, accumulate);
}

}  // namespace fathom::simd
#endif
