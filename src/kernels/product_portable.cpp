// Products with integer weights as plain loops, for any processor.
#include <algorithm>

#include "formats/float16.h"
#include "kernels/product.h"

namespace fathom::products {
namespace {

std::int8_t value_at(const Activations& x, std::int64_t row, std::int64_t k) {
  return static_cast<std::int8_t>(x.data[tiled_offset(x.stride, row, k)]);
}

// Sums of four neighbouring inputs' products, for each output.
void add_eight_bits(const Activations& x, std::int64_t row, std::int64_t k, const std::byte* panel,
                    std::int32_t* sums) {
  for (std::int64_t o = 0; o < panel_outputs; ++o)
    for (std::int64_t i = 0; i < 4; ++i)
      sums[o] += static_cast<std::int8_t>(panel[k * panel_outputs + o * 4 + i]) * value_at(x, row, k + i);
}

// The same of eight, whose weights are stored with `zero` too much.
void add_four_bits(const Activations& x, std::int64_t row, std::int64_t k, const std::byte* panel, int zero,
                   std::int32_t* sums) {
  for (std::int64_t o = 0; o < panel_outputs; ++o)
    for (std::int64_t i = 0; i < 4; ++i) {
      const auto both = static_cast<std::uint8_t>(panel[k / 8 * panel_outputs * 4 + o * 4 + i]);
      sums[o] +=
          (both % 16 - zero) * value_at(x, row, k + i) + (both / 16 - zero) * value_at(x, row, k + 4 + i);
    }
}

// One group's sums.
void add_group(const PackedMatrix& weight, const Activations& x, std::int64_t row, std::int64_t g,
               const std::byte* panel, std::int32_t* sums) {
  for (std::int64_t k = g * weight.group; k < (g + 1) * weight.group; k += 8) {
    if (weight.four_bits()) {
      add_four_bits(x, row, k, panel, weight.zero(), sums);
    } else {
      add_eight_bits(x, row, k, panel, sums);
      add_eight_bits(x, row, k + 4, panel, sums);
    }
  }
}

// Output `o` of a group's scales or minima.
float group_value(const PackedMatrix& weight, const std::byte* of_group, std::int64_t o) {
  if (!weight.half_scales) return reinterpret_cast<const float*>(of_group)[o];
  return from_f16(reinterpret_cast<const std::uint16_t*>(of_group)[o]);
}

void grouped_row(const PackedMatrix& weight, const Activations& x, std::int64_t row, const std::byte* panel,
                 float* results) {
  float totals[panel_outputs] = {};
  for (std::int64_t g = 0; g < weight.groups(); ++g) {
    std::int32_t sums[panel_outputs] = {};
    add_group(weight, x, row, g, panel, sums);
    const std::int64_t at = group_offset(weight.groups(), row, g);
    for (std::int64_t o = 0; o < panel_outputs; ++o) {
      totals[o] += static_cast<float>(sums[o]) *
                   (x.scales[at] * group_value(weight, weight.group_scales(panel, g), o));
      if (weight.minima)
        totals[o] += x.scaled_sums[at] * group_value(weight, weight.group_minima(panel, g), o);
    }
  }
  std::copy_n(totals, panel_outputs, results);
}

void whole_row(const PackedMatrix& weight, const Activations& x, std::int64_t row, const std::byte* panel,
               float* results) {
  std::int32_t totals[panel_outputs] = {};
  for (std::int64_t g = 0; g < weight.groups(); ++g) {
    std::int32_t sums[panel_outputs] = {};
    add_group(weight, x, row, g, panel, sums);
    const std::int8_t* multipliers = weight.multipliers(panel) + g * panel_outputs;
    for (std::int64_t o = 0; o < panel_outputs; ++o)
      totals[o] += weight.four_bits() ? sums[o] * multipliers[o] : sums[o];
  }
  for (std::int64_t o = 0; o < panel_outputs; ++o)
    results[o] = static_cast<float>(totals[o]) * x.scales[row] * weight.scales(panel)[o];
}

}  // namespace

void integers_portable(const PackedMatrix& weight, const Activations& x, Range rows, Range panels,
                       const Destination& to, std::byte*) {
  row_by_row(weight, x, rows, panels, to, weight.grouped() ? grouped_row : whole_row);
}

}  // namespace fathom::products
