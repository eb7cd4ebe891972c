// The two 16-bit floating-point formats, converted in integer registers so that loops over them vectorise on
// every machine (method: Maratyszcza's FP16 library).
#pragma once

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstdint>

namespace fathom {

/// Exact, subnormals, infinities and NaN included.
inline float from_f16(std::uint16_t half) {
  const std::uint32_t word = std::uint32_t{half} << 16;
  const std::uint32_t sign = word & 0x80000000U;
  const std::uint32_t twice = word + word;  // exponent and mantissa at the top
  // Normal numbers: the exponent moves to float's place, biased by 224 too much, and 2^-112 puts it right
  // (which also keeps infinity and NaN what they are). Subnormal ones: the mantissa as the tail of 0.5.
  const float normal = std::bit_cast<float>((twice >> 4) + (0xe0U << 23)) * 0x1.0p-112F;
  const float subnormal = std::bit_cast<float>((twice >> 17) | (126U << 23)) - 0.5F;
  const float magnitude = twice < (1U << 27) ? subnormal : normal;
  return std::bit_cast<float>(sign | std::bit_cast<std::uint32_t>(magnitude));
}

/// Rounded to nearest even; above 65504 (by half a step or more) infinity; NaN stays NaN.
inline std::uint16_t to_f16(float value) {
  const auto word = std::bit_cast<std::uint32_t>(value);
  const std::uint32_t twice = word + word;
  // Adding a power of two whose last bit is the half's last bit makes the float unit round.
  const float scaled = (std::fabs(value) * 0x1.0p+112F) * 0x1.0p-110F;
  const std::uint32_t bias = std::max(twice & 0xff000000U, 0x71000000U);
  const auto rounded = std::bit_cast<std::uint32_t>(std::bit_cast<float>((bias >> 1) + 0x07800000U) + scaled);
  const std::uint32_t magnitude = ((rounded >> 13) & 0x7c00U) + (rounded & 0x0fffU);
  return static_cast<std::uint16_t>((word >> 16 & 0x8000U) | (twice > 0xff000000U ? 0x7e00U : magnitude));
}

/// Exact.
inline float from_bf16(std::uint16_t half) { return std::bit_cast<float>(std::uint32_t{half} << 16); }

/// Rounded to nearest even; NaN stays NaN (quiet, or the carry could make it an infinity).
inline std::uint16_t to_bf16(float value) {
  const auto word = std::bit_cast<std::uint32_t>(value);
  const std::uint32_t rounded = (word + 0x7fffU + (word >> 16 & 1U)) >> 16;
  const bool nan = (word & 0x7fffffffU) > 0x7f800000U;
  return static_cast<std::uint16_t>(nan ? (word >> 16 | 0x40U) : rounded);
}

}  // namespace fathom
