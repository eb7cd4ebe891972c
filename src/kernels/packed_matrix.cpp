#include "kernels/packed_matrix.h"

#include <algorithm>
#include <numeric>

#include "base/threads.h"
#include "kernels/bf16.h"
#include "kernels/quantise.h"

namespace fathom {
namespace {

// Where one output's weights go: column `column` of the panel at `panel`.
struct Place {
  std::byte* panel = nullptr;
  std::int64_t column = 0;

  template <typename T>
  T* at(std::int64_t byte) const {
    return reinterpret_cast<T*>(panel + byte);
  }
};

void put_floats(const Place& place, std::span<const float> row) {
  for (std::size_t i = 0; i < row.size(); ++i)
    place.at<float>(0)[static_cast<std::int64_t>(i) * panel_outputs + place.column] = row[i];
}

void put_bf16(const Place& place, std::span<const float> row) {
  for (std::size_t i = 0; i < row.size(); ++i) {
    const auto pair = static_cast<std::int64_t>(i / 2) * panel_outputs + place.column;
    place.at<std::uint16_t>(0)[pair * 2 + static_cast<std::int64_t>(i % 2)] = to_bf16(row[i]);
  }
}

void put_int8(const PackedMatrix& packed, const Place& place, std::span<const float> row) {
  std::vector<std::int8_t> q(static_cast<std::size_t>(packed.padded_in));
  const float scale = quantise_int8(row, std::span(q).first(row.size()));
  for (std::size_t i = 0; i < q.size(); i += 4)
    std::copy_n(q.data() + i, 4,
                place.at<std::int8_t>(static_cast<std::int64_t>(i) * panel_outputs + place.column * 4));
  const std::int64_t tail = packed.weight_bytes();
  place.at<float>(tail)[place.column] = scale;
  place.at<std::int32_t>(tail + 64)[place.column] = -128 * std::accumulate(q.begin(), q.end(), 0);
}

// Inputs 8 j ... 8 j + 3 lie in the lower halves of a row's bytes, 8 j + 4 ... 8 j + 7 in the upper ones.
void put_int4(const PackedMatrix& packed, const Place& place, std::span<const float> row) {
  std::vector<std::uint8_t> q(static_cast<std::size_t>(packed.padded_in), 8);
  std::vector<std::int8_t> multipliers(static_cast<std::size_t>(packed.groups()), 1);
  const std::size_t groups = (row.size() + int4_group - 1) / int4_group;
  const float scale =
      quantise_int4(row, std::span(q).first(row.size()), std::span(multipliers).first(groups));
  for (std::int64_t i = 0; i < packed.padded_in; ++i) {
    std::uint8_t& byte = place.at<std::uint8_t>(0)[(i / 8 * panel_outputs + place.column) * 4 + i % 4];
    const auto value = q[static_cast<std::size_t>(i)];
    byte = static_cast<std::uint8_t>(i % 8 < 4 ? (byte & 0xf0U) | value : (byte & 0x0fU) | (value << 4U));
  }
  for (std::int64_t g = 0; g < packed.groups(); ++g)
    place.at<std::int8_t>(packed.weight_bytes())[g * panel_outputs + place.column] =
        multipliers[static_cast<std::size_t>(g)];
  place.at<float>(packed.weight_bytes() + packed.multiplier_bytes())[place.column] = scale;
}

void put_row(const PackedMatrix& packed, const Place& place, std::span<const float> row) {
  switch (packed.type) {
    case Compute::f32:
      return put_floats(place, row);
    case Compute::bf16:
      return put_bf16(place, row);
    case Compute::int8:
      return put_int8(packed, place, row);
    case Compute::int4:
      return put_int4(packed, place, row);
  }
}

}  // namespace

PackedMatrix pack_matrix(std::span<const LinearPart> parts, bool gated, Compute type) {
  PackedMatrix packed;
  packed.type = type;
  packed.gated = gated;
  packed.in = parts.front().weight->row_elements();
  for (const LinearPart& part : parts) packed.out += part.weight->rows();
  const std::int64_t granule = type == Compute::f32 ? 1 : type == Compute::bf16 ? 32 : 64;
  packed.padded_in = (packed.in + granule - 1) / granule * granule;
  packed.data = AlignedBuffer(static_cast<std::size_t>(packed.panels() * packed.panel_bytes()));
  const bool biased = std::ranges::any_of(parts, [](const LinearPart& part) { return part.bias != nullptr; });
  if (biased) packed.bias.resize(static_cast<std::size_t>(packed.panels() * panel_outputs));

  std::int64_t before = 0;  // outputs of the parts before this one
  for (std::size_t which = 0; which < parts.size(); ++which) {
    const Tensor& weight = *parts[which].weight;
    const auto bias = parts[which].bias != nullptr ? decode(*parts[which].bias) : std::vector<float>();
    // Blocks of 16 rows begin where a panel does, but for parts of odd sizes; no two rows share a byte either
    // way.
    const std::int64_t blocks = (weight.rows() + panel_outputs - 1) / panel_outputs;
    parallel_for(blocks, [&](std::int64_t block) {
      const std::int64_t first = block * panel_outputs;
      const std::int64_t count = std::min(panel_outputs, weight.rows() - first);
      std::vector<float> rows(static_cast<std::size_t>(count * packed.in));
      decode_rows(weight, first, count, rows);
      for (std::int64_t r = 0; r < count; ++r) {
        const std::int64_t output = gated ? first + r : before + first + r;
        const std::int64_t panel =
            gated ? output / panel_outputs * 2 + static_cast<std::int64_t>(which) : output / panel_outputs;
        const Place place = {packed.data.as<std::byte>() + panel * packed.panel_bytes(),
                             output % panel_outputs};
        put_row(packed, place,
                std::span(rows).subspan(static_cast<std::size_t>(r * packed.in),
                                        static_cast<std::size_t>(packed.in)));
        if (!bias.empty())
          packed.bias[static_cast<std::size_t>(panel * panel_outputs + place.column)] =
              bias[static_cast<std::size_t>(first + r)];
      }
    });
    before += weight.rows();
  }
  return packed;
}

}  // namespace fathom
