// The two 8-bit floating-point formats that model files hold, to float.
#pragma once

#include <bit>
#include <cstdint>

#include "formats/float16.h"

namespace fathom {

/// Five bits of exponent: the upper half of an f16, infinities and NaN included. Exact.
inline float from_f8_e5m2(std::uint8_t bits) { return from_f16(static_cast<std::uint16_t>(bits << 8)); }

/// Four bits of exponent (bias 7), no infinities, and NaN where all other bits are set ("e4m3fn"). Exact.
inline float from_f8_e4m3(std::uint8_t bits) {
  const int magnitude = bits & 0x7f;
  if (magnitude == 0x7f) return std::bit_cast<float>((std::uint32_t{bits} >> 7 << 31) | 0x7fc00000U);
  // At f16's place the exponent means 2^-8 of what it does here, for subnormal numbers too.
  return from_f16(static_cast<std::uint16_t>((bits & 0x80) << 8 | magnitude << 7)) * 256;
}

}  // namespace fathom
