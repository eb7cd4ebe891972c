// As byte_vectors.h, NEON's vectors of 128 bits.
#pragma once

#include <arm_neon.h>

#include <cstddef>
#include <cstdint>

namespace fathom::products {
namespace {

struct Vectors128 {
  using Ints = int32x4_t;
  using Floats = float32x4_t;
  static constexpr int lanes = 4;

  static Ints load(const std::byte* from) { return vld1q_s32(reinterpret_cast<const std::int32_t*>(from)); }
  static Ints all(std::int32_t value) { return vdupq_n_s32(value); }
  static Ints add(Ints a, Ints b) { return vaddq_s32(a, b); }
  static Ints multiply(Ints a, Ints b) { return vmulq_s32(a, b); }
  static Ints bytes_widened(const std::int8_t* from) {
    const int8x8_t bytes = vreinterpret_s8_s32(vld1_dup_s32(reinterpret_cast<const std::int32_t*>(from)));
    return vmovl_s16(vget_low_s16(vmovl_s8(bytes)));
  }

  static Floats all(float value) { return vdupq_n_f32(value); }
  static Floats load(const float* from) { return vld1q_f32(from); }
  static void store(Floats values, float* to) { vst1q_f32(to, values); }
  static Floats floats(Ints values) { return vcvtq_f32_s32(values); }
  static Floats multiply(Floats a, Floats b) { return vmulq_f32(a, b); }
  static Floats multiply_add(Floats a, Floats b, Floats c) { return vfmaq_f32(c, a, b); }
};

}  // namespace
}  // namespace fathom::products
