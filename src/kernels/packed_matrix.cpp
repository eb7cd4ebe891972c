#include "kernels/packed_matrix.h"

#include <algorithm>
#include <atomic>
#include <cstring>
#include <numeric>
#include <utility>

#include "base/threads.h"
#include "formats/dequantise.h"
#include "formats/float16.h"
#include "kernels/quantise.h"
#include "kernels/simd.h"

namespace fathom {
namespace {

std::size_t size(std::int64_t value) { return static_cast<std::size_t>(value); }

// A row of the matrix: a row of a part, or none beyond the matrix.
struct Source {
  const LinearPart* part = nullptr;
  std::int64_t row = 0;
};

Source source_of(std::span<const LinearPart> parts, bool gated, std::int64_t panel, std::int64_t column) {
  std::int64_t row = (gated ? panel / 2 : panel) * panel_outputs + column;
  if (gated) parts = parts.subspan(size(panel % 2), 1);
  for (const LinearPart& part : parts) {
    if (row < part.weight->rows()) return {&part, row};
    row -= part.weight->rows();
  }
  return {};
}

// Fills panels one after another: each row becomes the 32-bit words that the panel's layout makes of it, and
// the words of 16 rows are interleaved. Memory is reserved once.
class PanelPacker {
 public:
  explicit PanelPacker(PackedMatrix& packed)
      : packed_(packed),
        words_(packed.weight_bytes() / (panel_outputs * 4)),
        // Not a power of two, which would bring all rows into the same lines of the cache.
        stride_((words_ + 15) / 16 * 16 + 16),
        rows_(size(panel_outputs * stride_) * sizeof(std::uint32_t)),
        floats_(size(packed.padded_in)),
        integers_(size(packed.padded_in)),
        scales_(size(packed.groups())),
        minima_(size(packed.groups())),
        multipliers_(size(packed.groups())) {}

  void pack(std::span<const LinearPart> parts, std::int64_t panel) {
    std::byte* to = packed_.data.as<std::byte>() + panel * packed_.panel_bytes();
    tail_ = to + packed_.weight_bytes();
    std::memset(tail_, 0, size(packed_.tail_bytes()));
    for (column_ = 0; column_ < panel_outputs; ++column_) {
      const Source source = source_of(parts, packed_.gated, panel, column_);
      auto* words = rows_.as<std::uint32_t>() + column_ * stride_;
      if (source.part == nullptr) {
        std::fill_n(words, words_, 0U);
        continue;
      }
      form(*source.part->weight, source.row, reinterpret_cast<std::byte*>(words));
    }
    auto* panel_words = reinterpret_cast<std::uint32_t*>(to);
    const auto* words = rows_.as<std::uint32_t>();
    for (std::int64_t w = 0; w < words_; ++w)
      for (std::int64_t c = 0; c < panel_outputs; ++c)
        panel_words[w * panel_outputs + c] = words[c * stride_ + w];
  }

 private:
  void form(const Tensor& weight, std::int64_t row, std::byte* words) {
    if (packed_.grouped()) return form_groups(weight, row, words);
    const std::span<const float> values = decoded(weight, row);
    if (packed_.type == Compute::f32) std::memcpy(words, floats_.data(), floats_.size() * sizeof(float));
    if (packed_.type == Compute::bf16)
      simd::to_bf16(floats_.size(), floats_.data(), reinterpret_cast<std::uint16_t*>(words));
    if (packed_.type == Compute::int8) form_int8(values, reinterpret_cast<std::int8_t*>(words));
    if (packed_.type == Compute::int4) form_int4(values, words);
  }

  // What lies beyond the row stays zero.
  std::span<const float> decoded(const Tensor& weight, std::int64_t row) {
    const std::span values = std::span(floats_).first(size(packed_.in));
    decode_rows(weight, row, 1, values);
    return values;
  }

  void form_int8(std::span<const float> values, std::int8_t* q) {
    put(0, quantise_int8(values, {q, values.size()}));
    std::fill(q + values.size(), q + packed_.padded_in, std::int8_t{0});
    put(64, -128 * std::accumulate(q, q + packed_.padded_in, 0));
  }

  void form_int4(std::span<const float> values, std::byte* words) {
    const std::size_t groups = (values.size() + group_size - 1) / group_size;
    const float scale = quantise_int4(values, std::span(integers_).first(values.size()),
                                      std::span(multipliers_).first(groups));
    put_nibbles(8, words);
    for (std::int64_t g = 0; g < packed_.groups(); ++g) put(g * panel_outputs, multipliers_[size(g)]);
    put(packed_.multiplier_bytes(), scale);
  }

  void form_groups(const Tensor& weight, std::int64_t row, std::byte* words) {
    std::int8_t* q = packed_.four_bits() ? integers_.data() : reinterpret_cast<std::int8_t*>(words);
    const bool kept = keeps_integers(weight, packed_.type);
    const bool with_minima = kept && grouping_of(weight.dtype).minima;
    if (kept)
      unpack_row(weight, row, q, scales_.data(), minima_.data());
    else
      quantise_groups(decoded(weight, row), q);
    // The matrix's groups may be smaller.
    const std::int64_t times = (kept ? grouping_of(weight.dtype).size : group_size) / packed_.group;
    std::fill(q + packed_.in, q + packed_.padded_in, std::int8_t{0});
    if (packed_.four_bits()) put_nibbles(with_minima ? 0 : 8, words);
    for (std::int64_t g = 0; g < packed_.groups(); ++g) {
      const float scale = scales_[size(g / times)];
      put_scale(g, scale);
      // What begins at -8 begins at 0 beside others with minima.
      const float minimum = with_minima ? minima_[size(g / times)] : packed_.four_bits() ? -8 * scale : 0;
      if (packed_.minima) put_scale(packed_.groups() + g, minimum);
    }
  }

  void quantise_groups(std::span<const float> values, std::int8_t* q) {
    for (std::size_t g = 0, at = 0; at < values.size(); ++g, at += size(group_size)) {
      const auto group = values.subspan(at, std::min(size(group_size), values.size() - at));
      const std::span own(q + at, group.size());
      scales_[g] = packed_.four_bits() ? quantise_int4_group(group, own) : quantise_int8_group(group, own);
    }
  }

  // integers_ + zero, from 0 to 15, eight in 32 bits: (-8 ... 7) + 8 is what the other sign bit makes of
  // them.
  void put_nibbles(std::uint32_t zero, std::byte* words) const {
    auto* to = reinterpret_cast<std::uint32_t*>(words);
    const auto* q = reinterpret_cast<const std::uint32_t*>(integers_.data());
    const std::uint32_t flip = zero * 0x01010101U, low = 0x0f0f0f0fU;
    for (std::int64_t w = 0; w < words_; ++w)
      to[w] = ((q[2 * w] ^ flip) & low) | ((q[2 * w + 1] ^ flip) & low) << 4U;
  }

  // Behind the weights, where values of type T begin at byte `at`.
  template <typename T>
  void put(std::int64_t at, T value) {
    reinterpret_cast<T*>(tail_ + at)[column_] = value;
  }
  void put_scale(std::int64_t g, float value) {
    if (packed_.half_scales)
      put(g * packed_.group_bytes(), to_f16(value));
    else
      put(g * packed_.group_bytes(), value);
  }

  PackedMatrix& packed_;
  std::int64_t words_, stride_;  // of a row, and to the next
  AlignedBuffer rows_;
  std::vector<float> floats_;
  std::vector<std::int8_t> integers_;
  std::vector<float> scales_, minima_;
  std::vector<std::int8_t> multipliers_;
  std::byte* tail_ = nullptr;
  std::int64_t column_ = 0;
};

// Whether bf16 holds every element.
bool fits_bf16(const Tensor& weight) {
  if (weight.dtype == DType::bf16 && weight.is_plain()) return true;
  std::atomic<bool> fits = true;
  parallel_for(weight.rows(), [&](std::int64_t row) {
    if (!fits) return;
    std::vector<float> values(size(weight.row_elements()));
    decode_rows(weight, row, 1, values);
    if (!std::ranges::all_of(values, [](float v) { return from_bf16(to_bf16(v)) == v; })) fits = false;
  });
  return fits;
}

// Groups are the smallest of the parts', scales as wide as the widest.
void choose_groups(PackedMatrix& packed, std::span<const LinearPart> parts) {
  bool without = false;
  for (const LinearPart& part : parts) {
    if (!keeps_integers(*part.weight, packed.type)) {
      without = true;
      continue;
    }
    const Grouping grouping = grouping_of(part.weight->dtype);
    packed.group = std::min<std::int64_t>(packed.group, grouping.size);
    packed.half_scales &= grouping.half;
    (grouping.minima ? packed.minima : without) = true;
  }
  // -8 times an f16 may be beyond f16's range.
  if (packed.minima && without) packed.half_scales = false;
}

std::vector<float> bias_of(const PackedMatrix& packed, std::span<const LinearPart> parts) {
  if (std::ranges::all_of(parts, [](const LinearPart& part) { return part.bias == nullptr; })) return {};
  std::vector<float> bias(size(packed.panels() * panel_outputs));
  for (std::int64_t i = 0; i < std::ssize(bias); ++i) {
    const Source source = source_of(parts, packed.gated, i / panel_outputs, i % panel_outputs);
    if (source.part != nullptr && source.part->bias != nullptr)
      decode_rows(*source.part->bias, source.row, 1, std::span(bias).subspan(size(i), 1));
  }
  return bias;
}

// The matrix without its panels.
PackedMatrix form_of(std::span<const LinearPart> parts, bool gated, Compute type) {
  PackedMatrix packed;
  packed.type = type;
  packed.gated = gated;
  packed.in = parts.front().weight->row_elements();
  for (const LinearPart& part : parts) packed.out += part.weight->rows();
  if (packed.grouped()) choose_groups(packed, parts);
  const std::int64_t granule = packed.type == Compute::f32 ? 1 : packed.type == Compute::bf16 ? 32 : 64;
  packed.padded_in = (packed.in + granule - 1) / granule * granule;
  packed.bias = bias_of(packed, parts);
  return packed;
}

}  // namespace

bool keeps_integers(const Tensor& weight, Compute type) {
  const Grouping grouping = grouping_of(weight.dtype);
  return grouping.size > 0 && weight.decoded_offset == 0 &&
         (type == Compute::int8_groups || (type == Compute::int4_groups && grouping.four_bits));
}

Compute resolved_type(std::span<const LinearPart> parts, Compute type) {
  if (type != Compute::native) return type;
  for (const Compute grouped : {Compute::int4_groups, Compute::int8_groups})
    if (std::ranges::all_of(parts,
                            [&](const LinearPart& part) { return keeps_integers(*part.weight, grouped); }))
      return grouped;
  const bool fits =
      std::ranges::all_of(parts, [](const LinearPart& part) { return fits_bf16(*part.weight); });
  return fits ? Compute::bf16 : Compute::f32;
}

PackedMatrix pack_matrix(std::span<const LinearPart> parts, bool gated, Compute type) {
  PackedMatrix packed = form_of(parts, gated, resolved_type(parts, type));
  packed.data = AlignedBuffer::unwritten(size(packed.panels() * packed.panel_bytes()));
  const std::int64_t shares = std::min<std::int64_t>(thread_count(), packed.panels());
  parallel_for(shares, [&](std::int64_t share) {
    PanelPacker packer(packed);
    for (std::int64_t panel = packed.panels() * share / shares;
         panel < packed.panels() * (share + 1) / shares; ++panel)
      packer.pack(parts, panel);
  });
  return packed;
}

std::optional<PackedMatrix> view_matrix(std::span<const LinearPart> parts, bool gated, Compute type,
                                        std::span<const std::byte> panels,
                                        std::shared_ptr<const void> owner) {
  PackedMatrix packed = form_of(parts, gated, type);
  if (packed.panels() * packed.panel_bytes() != std::ssize(panels)) return std::nullopt;
  packed.lent = panels;
  packed.owner = std::move(owner);
  return packed;
}

}  // namespace fathom
