#include "kernels/stretch.h"

#include <algorithm>

#include "kernels/targets.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/stretch.cpp"
#include <hwy/foreach_target.h>
// After foreach_target, as Highway wants it.
#include <hwy/highway.h>

HWY_BEFORE_NAMESPACE();
namespace fathom::simd::HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;
using D = hn::ScalableTag<float>;
using Vector = hn::Vec<D>;
inline constexpr std::size_t outputs = panel_outputs;

HWY_INLINE Vector from_f16(const std::byte* from) {
  const hn::Rebind<hwy::float16_t, D> half;
  return hn::PromoteTo(D(), hn::LoadU(half, reinterpret_cast<const hwy::float16_t*>(from)));
}
// T is int8_t or uint8_t.
template <class T>
HWY_INLINE Vector from_bytes(const T* from) {
  const D d;
  const hn::RebindToSigned<D> d32;
  return hn::ConvertTo(d, hn::PromoteTo(d32, hn::LoadU(hn::Rebind<T, D>(), from)));
}

void widen_scales(std::size_t count, const std::byte* from, float* to) {
  const D d;
  for (std::size_t i = 0; i < count; i += hn::Lanes(d)) hn::Store(from_f16(from + i * 2), d, to + i);
}

void scales_of_eight_bits(std::size_t groups, const std::byte* from, float* scales) {
  const D d;
  const std::byte* factors = from + groups * outputs;
  for (std::size_t i = 0; i < outputs; i += hn::Lanes(d)) {
    const Vector factor = from_f16(factors + i * 2);
    for (std::size_t g = 0; g < groups; ++g)
      hn::Store(hn::Mul(factor, from_bytes(reinterpret_cast<const std::int8_t*>(from) + g * outputs + i)), d,
                scales + g * outputs + i);
  }
}

void scales_of_six_bits(std::size_t groups, const std::byte* from, float* scales, float* minima) {
  const D d;
  const hn::RebindToUnsigned<D> d32;
  const hn::RebindToSigned<D> signed32;
  const hn::Rebind<std::uint8_t, D> d8;
  const std::byte* upper = from + groups * outputs;
  const std::byte* factors = upper + groups / 2 * outputs;
  const auto four = hn::Set(d32, 15), two = hn::Set(d32, 0x30);
  const auto bytes = [&](const std::byte* at) {
    return hn::PromoteTo(d32, hn::LoadU(d8, reinterpret_cast<const std::uint8_t*>(at)));
  };
  const auto floats = [&](hn::Vec<decltype(d32)> v) { return hn::ConvertTo(d, hn::BitCast(signed32, v)); };
  for (std::size_t i = 0; i < outputs; i += hn::Lanes(d)) {
    const Vector factor = from_f16(factors + i * 2), below = hn::Neg(from_f16(factors + outputs * 2 + i * 2));
    const auto put = [&](std::size_t g, hn::Vec<decltype(d32)> scale_above,
                         hn::Vec<decltype(d32)> minimum_above) {
      const auto low = bytes(from + g * outputs + i);
      const auto scale = hn::Or(hn::And(low, four), hn::And(scale_above, two));
      const auto minimum = hn::Or(hn::ShiftRight<4>(low), hn::And(minimum_above, two));
      hn::Store(hn::Mul(factor, floats(scale)), d, scales + g * outputs + i);
      hn::Store(hn::Mul(below, floats(minimum)), d, minima + g * outputs + i);
    };
    for (std::size_t g = 0; g < groups; g += 2) {
      const auto both = bytes(upper + g / 2 * outputs + i);
      put(g, hn::ShiftLeft<4>(both), hn::ShiftLeft<2>(both));
      put(g + 1, both, hn::ShiftRight<2>(both));
    }
  }
}

// To rows of 64 bytes of four inputs each.
void widen_six_bits(std::size_t inputs, const std::byte* from, std::byte* to) {
  const hn::CappedTag<std::uint8_t, 64> d;
  const auto* low = reinterpret_cast<const std::uint8_t*>(from);
  auto* bytes = reinterpret_cast<std::uint8_t*>(to);
  const auto four = hn::Set(d, 15), two = hn::Set(d, 0x30);
  for (std::size_t k = 0; k < inputs; k += 16, low += 192, bytes += 256) {
    for (std::size_t i = 0; i < 64; i += hn::Lanes(d)) {
      const auto first = hn::LoadU(d, low + i), second = hn::LoadU(d, low + 64 + i),
                 above = hn::LoadU(d, low + 128 + i);
      hn::Store(hn::Or(hn::And(first, four), hn::And(hn::ShiftLeft<4>(above), two)), d, bytes + i);
      hn::Store(hn::Or(hn::ShiftRight<4>(first), hn::And(hn::ShiftLeft<2>(above), two)), d, bytes + 64 + i);
      hn::Store(hn::Or(hn::And(second, four), hn::And(above, two)), d, bytes + 128 + i);
      hn::Store(hn::Or(hn::ShiftRight<4>(second), hn::And(hn::ShiftRight<2>(above), two)), d,
                bytes + 192 + i);
    }
  }
}

}  // namespace fathom::simd::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace fathom {
namespace simd {
HWY_EXPORT(widen_scales);
HWY_EXPORT(scales_of_eight_bits);
HWY_EXPORT(scales_of_six_bits);
HWY_EXPORT(widen_six_bits);
}  // namespace simd

Stretch read_stretch(const PackedMatrix& weight, const std::byte* panel, std::int64_t s, bool widen,
                     StretchRoom& room) {
  using namespace simd;
  Stretch stretch;
  stretch.first_input = s * stretch_inputs;
  stretch.inputs = std::min(stretch_inputs, weight.padded_in - stretch.first_input);
  stretch.first_group = stretch.first_input / weight.group;
  stretch.groups = stretch.inputs / weight.group;
  const std::byte* from = panel + s * weight.stretch_bytes(stretch_inputs);
  stretch.weights = from + weight.scale_bytes(stretch.groups);
  if (weight.type == Compute::int4) {
    stretch.multipliers = reinterpret_cast<const std::int8_t*>(from);
    return stretch;
  }
  stretch.scales = room.scales;
  stretch.minima = room.minima;
  const auto groups = static_cast<std::size_t>(stretch.groups), values = groups * panel_outputs;
  switch (weight.scales_as) {
    case ScaleForm::f32:
      stretch.scales = reinterpret_cast<const float*>(from);
      stretch.minima = stretch.scales + values;
      break;
    case ScaleForm::f16:
      HWY_DYNAMIC_DISPATCH(widen_scales)(values, from, room.scales);
      if (weight.minima) HWY_DYNAMIC_DISPATCH(widen_scales)(values, from + 2 * values, room.minima);
      break;
    case ScaleForm::six_bits:
      HWY_DYNAMIC_DISPATCH(scales_of_six_bits)(groups, from, room.scales, room.minima);
      break;
    case ScaleForm::eight_bits:
      HWY_DYNAMIC_DISPATCH(scales_of_eight_bits)(groups, from, room.scales);
      break;
  }
  if (widen && weight.bits() == 6) {
    HWY_DYNAMIC_DISPATCH(widen_six_bits)
    (static_cast<std::size_t>(stretch.inputs), stretch.weights, room.weights);
    stretch.weights = room.weights;
  }
  return stretch;
}

}  // namespace fathom
#endif
