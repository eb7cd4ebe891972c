#include "kernels/panels.h"

#include <algorithm>

#include "base/threads.h"
#include "kernels/bf16.h"

namespace fathom {
namespace {

void pack_panel(const Tensor& weight, PanelMatrix& packed, std::int64_t panel) {
  const std::int64_t first = panel * panel_outputs;
  const std::int64_t count = std::min(panel_outputs, packed.out - first);
  std::vector<float> rows(static_cast<std::size_t>(count * packed.in));
  decode_rows(weight, first, count, rows);
  const auto fill = [&]<typename T>(T* to, auto convert) {
    to += panel * packed.panel_elements();
    for (std::int64_t o = 0; o < count; ++o)
      for (std::int64_t i = 0; i < packed.in; ++i)
        to[paired_index<T>(i, o, panel_outputs)] = convert(rows[static_cast<std::size_t>(o * packed.in + i)]);
  };
  if (packed.type == Compute::f32)
    fill(packed.data.as<float>(), [](float w) { return w; });
  else
    fill(packed.data.as<std::uint16_t>(), to_bf16);
}

}  // namespace

PanelMatrix pack_panels(const Tensor& weight, Compute type) {
  PanelMatrix packed;
  packed.out = weight.rows();
  packed.in = weight.row_elements();
  packed.type = type;
  const std::int64_t granule = type == Compute::f32 ? 16 : 32;
  packed.padded_in = (packed.in + granule - 1) / granule * granule;
  const std::int64_t element_bytes = type == Compute::f32 ? 4 : 2;
  packed.data =
      AlignedBuffer(static_cast<std::size_t>(packed.panels() * packed.panel_elements() * element_bytes));
  parallel_for(packed.panels(), [&](std::int64_t panel) { pack_panel(weight, packed, panel); });
  return packed;
}

}  // namespace fathom
