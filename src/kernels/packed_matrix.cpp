#include "kernels/packed_matrix.h"

#include <algorithm>
#include <atomic>
#include <cstring>
#include <numeric>
#include <utility>

#include "base/processor.h"
#include "base/threads.h"
#include "formats/dequantise.h"
#include "formats/float16.h"
#include "kernels/product.h"
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
        super_scales_(size(packed.stretches())),
        multipliers_(size(packed.groups())) {}

  void pack(std::span<const LinearPart> parts, std::int64_t panel) {
    panel_ = packed_.data.as<std::byte>() + panel * packed_.panel_bytes();
    clear_scales();
    for (column_ = 0; column_ < panel_outputs; ++column_) {
      const Source source = source_of(parts, packed_.gated, panel, column_);
      auto* words = rows_.as<std::uint32_t>() + column_ * stride_;
      if (source.part == nullptr)
        std::fill_n(words, words_, 0U);
      else
        form(*source.part->weight, source.row, reinterpret_cast<std::byte*>(words));
    }
    if (!packed_.stretched()) return interleave(0, words_, panel_);
    const std::int64_t words_of_stretch = packed_.weight_bytes(stretch_inputs) / (panel_outputs * 4);
    for (std::int64_t s = 0; s < packed_.stretches(); ++s) {
      const std::int64_t first = s * words_of_stretch;
      interleave(first, std::min(words_of_stretch, words_ - first),
                 stretch(s) + packed_.scale_bytes(groups_of(s)));
    }
  }

 private:
  // And what fills the panel up; all else is written.
  void clear_scales() const {
    std::memset(panel_ + packed_.panel_bytes() - 64, 0, 64);
    if (packed_.tail_bytes() > 0) std::memset(tail(), 0, size(packed_.tail_bytes()));
    if (packed_.stretched())
      for (std::int64_t s = 0; s < packed_.stretches(); ++s)
        std::memset(stretch(s), 0, size(packed_.scale_bytes(groups_of(s))));
  }

  std::int64_t inputs_of(std::int64_t s) const {
    return std::min(stretch_inputs, packed_.padded_in - s * stretch_inputs);
  }
  std::int64_t groups_of(std::int64_t s) const { return inputs_of(s) / packed_.group; }
  std::byte* tail() const { return panel_ + packed_.panel_bytes() - packed_.tail_bytes(); }
  std::byte* stretch(std::int64_t s) const { return panel_ + s * packed_.stretch_bytes(stretch_inputs); }

  void interleave(std::int64_t first, std::int64_t count, std::byte* to) const {
    auto* panel_words = reinterpret_cast<std::uint32_t*>(to);
    const auto* words = rows_.as<std::uint32_t>() + first;
    for (std::int64_t w = 0; w < count; ++w)
      for (std::int64_t c = 0; c < panel_outputs; ++c)
        panel_words[w * panel_outputs + c] = words[c * stride_ + w];
  }

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
    put(tail(), quantise_int8(values, {q, values.size()}));
    std::fill(q + values.size(), q + packed_.padded_in, std::int8_t{0});
    put(tail() + 64, -128 * std::accumulate(q, q + packed_.padded_in, 0));
  }

  void form_int4(std::span<const float> values, std::byte* words) {
    const std::size_t groups = (values.size() + group_size - 1) / group_size;
    const float scale = quantise_int4(values, std::span(integers_).first(values.size()),
                                      std::span(multipliers_).first(groups));
    put_low_bits(8, {0, packed_.padded_in}, reinterpret_cast<std::uint32_t*>(words));
    for (std::int64_t s = 0, before = 0; s < packed_.stretches(); before += groups_of(s), ++s)
      for (std::int64_t g = 0; g < groups_of(s); ++g)
        put(stretch(s) + g * panel_outputs, multipliers_[size(before + g)]);
    put(tail(), scale);
  }

  void form_groups(const Tensor& weight, std::int64_t row, std::byte* words) {
    const bool kept = keeps_integers(weight, packed_.type);
    const bool with_minima = kept && grouping_of(weight.dtype).minima;
    if (!kept)
      quantise_groups(decoded(weight, row));
    else if (packed_.scales_as == ScaleForm::six_bits || packed_.scales_as == ScaleForm::eight_bits)
      unpack_row(weight, row, integers_.data(), super_scales_.data());
    else
      unpack_row(weight, row, integers_.data(), scales_.data(), minima_.data());
    std::fill(integers_.begin() + packed_.in, integers_.end(), std::int8_t{0});
    // What begins below 0 begins at 0 beside others with minima.
    const std::int32_t zero = packed_.bits() == 8 || with_minima ? 0 : packed_.bits() == 6 ? 32 : 8;
    for (std::int64_t s = 0; s < packed_.stretches(); ++s) {
      const Inputs inputs = {s * stretch_inputs, inputs_of(s)};
      words = put_weights(zero, inputs, words);
      if (packed_.scales_as == ScaleForm::six_bits || packed_.scales_as == ScaleForm::eight_bits)
        put_super_scales(s, super_scales_[size(s)]);
      else
        put_scales(s, (kept ? grouping_of(weight.dtype).size : group_size) / packed_.group,
                   with_minima ? minima_.data() : nullptr, zero);
    }
  }

  void quantise_groups(std::span<const float> values) {
    for (std::size_t g = 0, at = 0; at < values.size(); ++g, at += size(group_size)) {
      const auto group = values.subspan(at, std::min(size(group_size), values.size() - at));
      const std::span own(integers_.data() + at, group.size());
      scales_[g] = packed_.bits() == 4   ? quantise_int4_group(group, own)
                   : packed_.bits() == 6 ? quantise_int6_group(group, own)
                                         : quantise_int8_group(group, own);
    }
  }

  struct Inputs {
    std::int64_t first = 0, count = 0;
  };

  // A stretch's words of a row; returns where the next stretch's begin.
  std::byte* put_weights(std::int32_t zero, Inputs inputs, std::byte* words) const {
    if (packed_.bits() == 8) {
      std::memcpy(words, integers_.data() + inputs.first, size(inputs.count));
      return words + inputs.count;
    }
    auto* to = reinterpret_cast<std::uint32_t*>(words);
    if (packed_.bits() == 4) return reinterpret_cast<std::byte*>(put_low_bits(zero, inputs, to));
    for (std::int64_t i = 0; i < inputs.count; i += 16) {
      to = put_low_bits(zero, {inputs.first + i, 16}, to);
      *to++ = high_bits(zero, inputs.first + i);
    }
    return reinterpret_cast<std::byte*>(to);
  }

  // The lower four bits of integers_ + zero, eight in 32 bits: adding a zero of half the range is what the
  // other sign bit makes of them.
  std::uint32_t* put_low_bits(std::int32_t zero, Inputs inputs, std::uint32_t* to) const {
    const auto* q = reinterpret_cast<const std::uint32_t*>(integers_.data() + inputs.first);
    const std::uint32_t flip = static_cast<std::uint32_t>(zero) * 0x01010101U, low = 0x0f0f0f0fU;
    for (std::int64_t i = 0; i < inputs.count / 4; i += 2)
      *to++ = ((q[i] ^ flip) & low) | ((q[i + 1] ^ flip) & low) << 4U;
    return to;
  }

  // The two above of sixteen.
  std::uint32_t high_bits(std::int32_t zero, std::int64_t first) const {
    const auto* q = reinterpret_cast<const std::uint32_t*>(integers_.data() + first);
    const std::uint32_t flip = static_cast<std::uint32_t>(zero) * 0x01010101U, high = 0x03030303U;
    std::uint32_t word = 0;
    for (int i = 0; i < 4; ++i) word |= ((q[i] ^ flip) >> 4U & high) << (2 * i);
    return word;
  }

  // The row's groups have as many of the matrix's in them as `times` says. Without minima of its own each has
  // that of what is stored too much.
  void put_scales(std::int64_t s, std::int64_t times, const float* minima, std::int32_t zero) const {
    const std::int64_t groups = groups_of(s), before = s * stretch_inputs / packed_.group;
    for (std::int64_t g = 0; g < groups; ++g) {
      const std::size_t own = size((before + g) / times);
      put_scale(s, g, scales_[own]);
      if (packed_.minima)
        put_scale(s, groups + g, minima != nullptr ? minima[own] : -static_cast<float>(zero) * scales_[own]);
    }
  }
  void put_scale(std::int64_t s, std::int64_t g, float value) const {
    if (packed_.scales_as == ScaleForm::f16)
      put(stretch(s) + g * panel_outputs * 2, to_f16(value));
    else
      put(stretch(s) + g * panel_outputs * 4, value);
  }

  void put_super_scales(std::int64_t s, const SuperScales& super) const {
    const std::int64_t groups = groups_of(s);
    std::byte* to = stretch(s);
    if (packed_.scales_as == ScaleForm::eight_bits) {
      for (std::int64_t g = 0; g < groups; ++g) put(to + g * panel_outputs, super.scales[g]);
      return put(to + groups * panel_outputs, to_f16(super.scale));
    }
    std::byte* upper = to + groups * panel_outputs;
    for (std::int64_t g = 0; g < groups; g += 2) {
      unsigned both = 0;
      for (std::int64_t i = 0; i < 2; ++i) {
        const auto scale = static_cast<unsigned>(super.scales[g + i]),
                   minimum = unsigned{super.minima[g + i]};
        put(to + (g + i) * panel_outputs, static_cast<std::uint8_t>((scale & 15U) | (minimum & 15U) << 4U));
        both |= (scale >> 4U | minimum >> 4U << 2U) << (4 * i);
      }
      put(upper + g / 2 * panel_outputs, static_cast<std::uint8_t>(both));
    }
    std::byte* factors = upper + groups / 2 * panel_outputs;
    put(factors, to_f16(super.scale));
    put(factors + panel_outputs * 2, to_f16(super.minimum));
  }

  // The row's among 16 of type T.
  template <typename T>
  void put(std::byte* of_outputs, T value) const {
    reinterpret_cast<T*>(of_outputs)[column_] = value;
  }

  PackedMatrix& packed_;
  std::int64_t words_, stride_;  // of a row, and to the next
  AlignedBuffer rows_;
  std::vector<float> floats_;
  std::vector<std::int8_t> integers_;
  std::vector<float> scales_, minima_;
  std::vector<SuperScales> super_scales_;
  std::vector<std::int8_t> multipliers_;
  std::byte* panel_ = nullptr;
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

// Groups are the smallest of the parts', scales as wide as the widest; as the file has them where all parts
// do.
void choose_groups(PackedMatrix& packed, std::span<const LinearPart> parts) {
  const Grouping first = grouping_of(parts.front().weight->dtype);
  bool without = false, alike = true, half = true;
  for (const LinearPart& part : parts) {
    const Grouping grouping = grouping_of(part.weight->dtype);
    const bool kept = keeps_integers(*part.weight, packed.type);
    alike &= kept && grouping.super && grouping.minima == first.minima && grouping.size == first.size;
    (kept && grouping.minima ? packed.minima : without) = true;
    if (!kept) continue;
    packed.group = std::min<std::int64_t>(packed.group, grouping.size);
    half &= grouping.half;
  }
  // -32 times an f16 may be beyond f16's range.
  packed.scales_as = alike ? (first.minima ? ScaleForm::six_bits : ScaleForm::eight_bits)
                     : half && !(packed.minima && without) ? ScaleForm::f16
                                                           : ScaleForm::f32;
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

// Calls body(panels) for each thread's share, as nearly those that a product of few rows gives it as makes no
// difference to pages: a page belongs to the node of the thread that writes it first.
template <typename Body>
void each_share(const PackedMatrix& packed, const Body& body) {
  const std::int64_t shares = std::min<std::int64_t>(thread_count(), packed.panels());
  parallel_for(shares, [&](std::int64_t share) {
    body(Range{packed.panels() * share / shares, packed.panels() * (share + 1) / shares});
  });
}

}  // namespace

bool keeps_integers(const Tensor& weight, Compute type) {
  const Grouping grouping = grouping_of(weight.dtype);
  const int bits = type == Compute::int8_groups   ? 8
                   : type == Compute::int6_groups ? 6
                   : type == Compute::int4_groups ? 4
                                                  : 0;
  return grouping.size > 0 && weight.decoded_offset == 0 && grouping.bits <= bits;
}

Compute resolved_type(std::span<const LinearPart> parts, Compute type) {
  if (type != Compute::native) return type;
  for (const Compute grouped : {Compute::int4_groups, Compute::int6_groups, Compute::int8_groups})
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
  each_share(packed, [&](Range panels) {
    PanelPacker packer(packed);
    for (std::int64_t panel = panels.first; panel < panels.last; ++panel) packer.pack(parts, panel);
  });
  return packed;
}

void bring_near(PackedMatrix& packed) {
  packed.data = AlignedBuffer::unwritten(packed.lent.size());
  each_share(packed, [&](Range panels) {
    const std::int64_t first = panels.first * packed.panel_bytes(), last = panels.last * packed.panel_bytes();
    std::copy(packed.lent.data() + first, packed.lent.data() + last, packed.data.as<std::byte>() + first);
  });
  packed.lent = {};
  packed.owner.reset();
}

std::optional<PackedMatrix> view_matrix(std::span<const LinearPart> parts, bool gated, Compute type,
                                        std::span<const std::byte> panels,
                                        std::shared_ptr<const void> owner) {
  PackedMatrix packed = form_of(parts, gated, type);
  if (packed.panels() * packed.panel_bytes() != std::ssize(panels)) return std::nullopt;
  packed.lent = panels;
  packed.owner = std::move(owner);
  if (memory_nodes() > 1) bring_near(packed);
  return packed;
}

}  // namespace fathom
