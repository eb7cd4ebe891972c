// Products of float32 rows with weights in float32 or bf16, by vectors of float32.
#include <algorithm>

#include "kernels/product.h"
#include "kernels/row_blocks.h"
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
// What block_panels have of them, 12 to 24 KB in float32, stays in the L1 cache while rows go by.
inline constexpr std::int64_t stretch = 96;
// Rows whose results, 8 to 15 KB, stay there, too.
inline constexpr std::int64_t chunk = 60;

// 6 rows x 4 panels of one vector are 24 sums, with 4 vectors of weights and a broadcast 29 of AVX-512's 32
// registers, and so are 6 rows x 1 panel of four vectors of NEON's; 3 rows x 2 panels of two vectors fill
// AVX2's 16 likewise.
inline constexpr bool neon = HWY_ARCH_ARM_A64;
inline constexpr std::int64_t tile_panels = panel_vectors == 1 ? 4 : neon ? 1 : 2;
inline constexpr int block_rows = panel_vectors == 1 || neon ? 6 : panel_vectors == 2 ? 3 : 1;
// Two panels at least, because a gate and its up projection come together.
inline constexpr std::int64_t block_panels = panel_vectors == 1 ? 4 : 2;

// Where P panels have a stretch of inputs: as they are stored, or widened.
template <class T>
struct Panels {
  const T* first;
  std::int64_t apart;  // elements from one panel to the next
};

// Adds products of R rows' `count` inputs with P panels to results[R][P][16].
template <int R, std::int64_t P, class T>
HWY_INLINE void add_stretch(const float* x, std::int64_t x_stride, std::int64_t count,
                            const Panels<T>& panels, float* results) {
  constexpr std::int64_t side_by_side = R == 1 || P < tile_panels ? P : tile_panels;
  constexpr std::int64_t width = side_by_side * panel_outputs;
  const D d;
  alignas(64) float part[R * width];
  for (std::int64_t p = 0; p < P; p += side_by_side) {
    product_tile<R, panel_vectors, side_by_side>(static_cast<std::size_t>(count), x,
                                                 static_cast<std::size_t>(x_stride),
                                                 panels.first + p * panels.apart, panel_outputs,
                                                 static_cast<std::size_t>(panels.apart), part, width, false);
    for (int r = 0; r < R; ++r) {
      float* to = results + r * P * panel_outputs + p * panel_outputs;
      for (std::size_t i = 0; i < width; i += hn::Lanes(d))
        hn::Store(hn::Add(hn::Load(d, to + i), hn::Load(d, part + r * width + i)), d, to + i);
    }
  }
}

// Floats of `count` inputs of bf16 panels, whose inputs lie in pairs.
template <std::int64_t P>
HWY_INLINE void widen(std::int64_t count, const Panels<std::uint16_t>& panels, float* to) {
  const D d;
  const hn::RebindToUnsigned<D> d32;
  const auto lanes = static_cast<std::int64_t>(hn::Lanes(d));
  for (std::int64_t p = 0; p < P; ++p) {
    const auto* pairs = reinterpret_cast<const std::uint32_t*>(panels.first + p * panels.apart);
    float* own = to + p * stretch * panel_outputs;
    for (std::int64_t k = 0; k < count; k += 2)
      for (std::int64_t i = 0; i < panel_outputs; i += lanes) {
        const auto pair = hn::LoadU(d32, pairs + k / 2 * panel_outputs + i);
        hn::Store(hn::BitCast(d, hn::ShiftLeft<16>(pair)), d, own + k * panel_outputs + i);
        hn::Store(hn::BitCast(d, hn::And(pair, hn::Set(d32, 0xffff0000U))), d,
                  own + (k + 1) * panel_outputs + i);
      }
  }
}

template <std::int64_t P, class T>
void panels_of(const PackedMatrix& weight, const Activations& x, Range rows, std::int64_t panel,
               const Destination& to) {
  constexpr std::int64_t outputs = P * panel_outputs;
  constexpr int most = P <= block_panels ? block_rows : 1;
  // Widening takes as long as multiplying with two rows.
  constexpr std::int64_t worth_widening = 8;
  const std::int64_t x_stride = x.stride / std::int64_t{sizeof(float)};
  const auto* values = reinterpret_cast<const float*>(x.data);
  const Panels<T> stored = {reinterpret_cast<const T*>(weight.panel(panel)),
                            weight.panel_bytes() / std::int64_t{sizeof(T)}};
  alignas(64) float block[chunk * outputs];
  alignas(64) float wide[sizeof(T) == 2 && most > 1 ? stretch * outputs : 1];
  for (std::int64_t first = rows.first; first < rows.last; first += chunk) {
    const std::int64_t count = std::min(chunk, rows.last - first);
    std::fill_n(block, count * outputs, 0.0F);
    for (std::int64_t k = 0; k < weight.padded_in; k += stretch) {
      const std::int64_t inputs = std::min(stretch, weight.padded_in - k);
      // k inputs of a panel are 16 k elements in either type.
      const Panels<T> here = {stored.first + k * panel_outputs, stored.apart};
      const auto multiply = [&](const auto& panels) {
        products::in_row_blocks<most>({0, count}, [&](auto size, std::int64_t row) {
          add_stretch<decltype(size)::value, P>(values + (first + row) * x_stride + k, x_stride, inputs,
                                                panels, block + row * outputs);
        });
      };
      if constexpr (sizeof(T) == 2 && most > 1) {
        if (count >= worth_widening) {
          widen<P>(inputs, here, wide);
          multiply(Panels<float>{wide, stretch * panel_outputs});
          continue;
        }
      }
      multiply(here);
    }
    write_block(weight, to, {first, count, panel, P, block, nullptr});
  }
}

// A single row takes 8 panels, or of NEON's registers 4: it is bound by reading them, and eight streams of
// memory are faster than one (packed_matrix.h).
template <class T>
void product_of(const PackedMatrix& weight, const Activations& x, Range rows, Range panels,
                const Destination& to) {
  constexpr std::int64_t of_a_row = neon ? 4 : 8;
  std::int64_t panel = panels.first;
  if (rows.last - rows.first == 1)
    for (; panel + of_a_row <= panels.last; panel += of_a_row)
      panels_of<of_a_row, T>(weight, x, rows, panel, to);
  for (; panel + block_panels <= panels.last; panel += block_panels)
    panels_of<block_panels, T>(weight, x, rows, panel, to);
  for (; panel + 2 <= panels.last; panel += 2) panels_of<2, T>(weight, x, rows, panel, to);
  if (panel < panels.last) panels_of<1, T>(weight, x, rows, panel, to);
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
