// Products with integer weights as plain loops, for any processor.
#include <algorithm>

#include "kernels/product.h"
#include "kernels/stretch.h"

namespace fathom::products {
namespace {

std::int8_t value_at(const Activations& x, std::int64_t row, std::int64_t k) {
  return static_cast<std::int8_t>(x.data[tiled_offset(x.stride, row, k)]);
}

// Adds the products of `count` inputs of a row from `k` on with weights of `bits`, which are stored with
// `zero` too much, for each output.
void add_products(const Activations& x, std::int64_t row, std::int64_t k, std::int64_t count,
                  const std::byte* weights, std::int64_t bits, int zero, std::int32_t* sums) {
  for (std::int64_t i = 0; i < count; ++i) {
    const std::int64_t lane = bits == 4 ? i / 8 : i / 4;
    const int value = value_at(x, row, k + i);
    for (std::int64_t o = 0; o < panel_outputs; ++o) {
      const std::byte stored = weights[(lane * panel_outputs + o) * 4 + i % 4];
      const auto both = static_cast<std::uint8_t>(stored);
      const int q = bits == 4 ? (i % 8 < 4 ? both % 16 : both / 16) : static_cast<std::int8_t>(stored);
      sums[o] += (q - zero) * value;
    }
  }
}

void grouped_row(const PackedMatrix& weight, const Activations& x, std::int64_t row, const std::byte* panel,
                 float* results) {
  const std::int64_t bits = weight.bits(), size = weight.group;
  float totals[panel_outputs] = {};
  for (std::int64_t s = 0; s < weight.stretches(); ++s) {
    StretchRoom room;
    const Stretch stretch = read_stretch(weight, panel, s, true, room);
    for (std::int64_t g = 0; g < stretch.groups; ++g) {
      std::int32_t sums[panel_outputs] = {};
      add_products(x, row, stretch.first_input + g * size, size,
                   stretch.weights + g * size * panel_outputs / (bits == 4 ? 2 : 1), bits,
                   bits == 8 ? 0 : weight.zero(), sums);
      const std::int64_t at = group_offset(weight.groups(), row, stretch.first_group + g);
      for (std::int64_t o = 0; o < panel_outputs; ++o) {
        totals[o] += static_cast<float>(sums[o]) * (x.scales[at] * stretch.scales[g * panel_outputs + o]);
        if (weight.minima) totals[o] += x.scaled_sums[at] * stretch.minima[g * panel_outputs + o];
      }
    }
  }
  std::copy_n(totals, panel_outputs, results);
}

void whole_row(const PackedMatrix& weight, const Activations& x, std::int64_t row, const std::byte* panel,
               float* results) {
  std::int32_t totals[panel_outputs] = {};
  if (!weight.four_bits()) add_products(x, row, 0, weight.padded_in, panel, 8, 0, totals);
  for (std::int64_t s = 0; weight.four_bits() && s < weight.stretches(); ++s) {
    StretchRoom none;
    const Stretch stretch = read_stretch(weight, panel, s, true, none);
    for (std::int64_t g = 0; g < stretch.groups; ++g) {
      std::int32_t sums[panel_outputs] = {};
      add_products(x, row, stretch.first_input + g * weight.group, weight.group,
                   stretch.weights + g * weight.group * (panel_outputs / 2), 4, weight.zero(), sums);
      for (std::int64_t o = 0; o < panel_outputs; ++o)
        totals[o] += sums[o] * stretch.multipliers[g * panel_outputs + o];
    }
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
