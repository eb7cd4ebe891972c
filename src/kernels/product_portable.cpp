// Products with int8 and int4 weights as plain loops, for any processor.
#include <algorithm>

#include "kernels/product.h"

namespace fathom::products {
namespace {

std::int8_t value_at(const Activations& x, std::int64_t row, std::int64_t k) {
  return static_cast<std::int8_t>(x.data[tiled_offset(x.stride, row, k)]);
}

void int8_sums(const PackedMatrix& weight, const Activations& x, std::int64_t row, const std::byte* panel,
               std::int32_t sums[panel_outputs]) {
  for (std::int64_t k = 0; k < weight.padded_in; k += 4)
    for (std::int64_t o = 0; o < panel_outputs; ++o)
      for (std::int64_t i = 0; i < 4; ++i)
        sums[o] += static_cast<std::int8_t>(panel[k * panel_outputs + o * 4 + i]) * value_at(x, row, k + i);
}

void int4_sums(const PackedMatrix& weight, const Activations& x, std::int64_t row, const std::byte* panel,
               std::int32_t sums[panel_outputs]) {
  for (std::int64_t k = 0; k < weight.padded_in; k += 8) {
    const std::int8_t* multipliers = weight.multipliers(panel) + k / 32 * panel_outputs;
    for (std::int64_t o = 0; o < panel_outputs; ++o) {
      std::int32_t sum = 0;
      for (std::int64_t i = 0; i < 4; ++i) {
        const auto both = static_cast<std::uint8_t>(panel[(k / 8 * panel_outputs + o) * 4 + i]);
        sum += (both % 16 - 8) * value_at(x, row, k + i) + (both / 16 - 8) * value_at(x, row, k + 4 + i);
      }
      sums[o] += sum * multipliers[o];
    }
  }
}

}  // namespace

void row_by_row(const PackedMatrix& weight, const Activations& x, Range rows, Range panels,
                const Destination& to, PanelSums panel_sums) {
  for (std::int64_t first = panels.first; first < panels.last; first += 2) {
    const std::int64_t count = panels.last - first < 2 ? 1 : 2;
    for (std::int64_t row = rows.first; row < rows.last; ++row) {
      std::int32_t sums[2 * panel_outputs];
      for (std::int64_t p = 0; p < count; ++p)
        panel_sums(weight, x, row, weight.panel(first + p), sums + p * panel_outputs);
      write_block(weight, to, {row, 1, first, count, sums, x.scales});
    }
  }
}

void integers_portable(const PackedMatrix& weight, const Activations& x, Range rows, Range panels,
                       const Destination& to, std::byte*) {
  row_by_row(weight, x, rows, panels, to,
             [](const PackedMatrix& matrix, const Activations& values, std::int64_t row,
                const std::byte* panel, std::int32_t* sums) {
               std::fill_n(sums, panel_outputs, 0);
               if (matrix.type == Compute::int8)
                 int8_sums(matrix, values, row, panel, sums);
               else
                 int4_sums(matrix, values, row, panel, sums);
             });
}

}  // namespace fathom::products
