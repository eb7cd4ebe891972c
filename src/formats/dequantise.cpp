#include "formats/dequantise.h"

#include <cstring>

#include "formats/float16.h"

namespace fathom {
namespace {

using Byte = std::uint8_t;

std::uint16_t load16(const Byte* in) {
  std::uint16_t value = 0;
  std::memcpy(&value, in, sizeof value);
  return value;
}

float load_f16(const Byte* in) { return from_f16(load16(in)); }

/// Bits 0 to 3 of 16 bytes are elements 0 to 15, bits 4 to 7 elements 16 to 31.
template <typename Value>
void split_nibbles(const Byte* in, float* out, Value&& value) {
  for (int i = 0; i < 16; ++i) out[i] = value(in[i] & 0x0f, i);
  for (int i = 0; i < 16; ++i) out[16 + i] = value(in[i] >> 4, 16 + i);
}

/// The fifth bits of 32 elements (one bit each in 4 bytes), as 0 or 16.
struct FifthBits {
  explicit FifthBits(const Byte* in) {
    for (int i = 0; i < 32; ++i) bit[i] = static_cast<Byte>((in[i / 8] >> (i % 8) & 1) << 4);
  }
  Byte bit[32];
};

// Blocks of 32: one scale d (and, in the _1 types, one minimum m), both f16, before the quants.

void q4_0(const Byte* in, float* out) {
  const float d = load_f16(in);
  split_nibbles(in + 2, out, [d](int q, int) { return d * static_cast<float>(q - 8); });
}

void q4_1(const Byte* in, float* out) {
  const float d = load_f16(in);
  const float m = load_f16(in + 2);
  split_nibbles(in + 4, out, [d, m](int q, int) { return d * static_cast<float>(q) + m; });
}

void q5_0(const Byte* in, float* out) {
  const float d = load_f16(in);
  const FifthBits fifth(in + 2);
  split_nibbles(in + 6, out, [&](int q, int i) { return d * static_cast<float>((q | fifth.bit[i]) - 16); });
}

void q5_1(const Byte* in, float* out) {
  const float d = load_f16(in);
  const float m = load_f16(in + 2);
  const FifthBits fifth(in + 4);
  split_nibbles(in + 8, out, [&](int q, int i) { return d * static_cast<float>(q | fifth.bit[i]) + m; });
}

void q8_0(const Byte* in, float* out) {
  const float d = load_f16(in);
  for (int i = 0; i < 32; ++i) out[i] = d * static_cast<float>(static_cast<std::int8_t>(in[2 + i]));
}

// Blocks of 256 ("super-blocks"): f16 scales of the scales of 8 or 16 sub-blocks.

/// Scale and minimum of 8 sub-blocks of 32, 6 bits each in 12 bytes: sub-blocks 0 to 3 have theirs in the low
/// 6 bits of bytes 0 to 3 and 4 to 7; those of 4 to 7 have 4 bits in bytes 8 to 11 and 2 at the top of the
/// former.
struct SubBlockScales {
  SubBlockScales(float d, float dmin, const Byte* in) {
    for (int j = 0; j < 4; ++j) {
      scale[j] = d * static_cast<float>(in[j] & 0x3f);
      minimum[j] = dmin * static_cast<float>(in[4 + j] & 0x3f);
      scale[4 + j] = d * static_cast<float>((in[8 + j] & 0x0f) | (in[j] >> 2 & 0x30));
      minimum[4 + j] = dmin * static_cast<float>(in[8 + j] >> 4 | (in[4 + j] >> 2 & 0x30));
    }
  }
  float scale[8], minimum[8];
};

void q4_k(const Byte* in, float* out) {
  const SubBlockScales of(load_f16(in), load_f16(in + 2), in + 4);
  const Byte* quants = in + 16;
  for (int j = 0; j < 8; j += 2, quants += 32, out += 64) {
    const float d0 = of.scale[j], m0 = of.minimum[j], d1 = of.scale[j + 1], m1 = of.minimum[j + 1];
    for (int i = 0; i < 32; ++i) out[i] = d0 * static_cast<float>(quants[i] & 0x0f) - m0;
    for (int i = 0; i < 32; ++i) out[32 + i] = d1 * static_cast<float>(quants[i] >> 4) - m1;
  }
}

void q5_k(const Byte* in, float* out) {
  const SubBlockScales of(load_f16(in), load_f16(in + 2), in + 4);
  const Byte* high = in + 16;  // bit j of byte i: the fifth bit of element i of sub-block j
  const Byte* quants = in + 48;
  for (int j = 0; j < 8; j += 2, quants += 32, out += 64) {
    const float d0 = of.scale[j], m0 = of.minimum[j], d1 = of.scale[j + 1], m1 = of.minimum[j + 1];
    for (int i = 0; i < 32; ++i) {
      const int q = (quants[i] & 0x0f) | (high[i] >> j & 1) << 4;
      out[i] = d0 * static_cast<float>(q) - m0;
    }
    for (int i = 0; i < 32; ++i) {
      const int q = quants[i] >> 4 | (high[i] >> (j + 1) & 1) << 4;
      out[32 + i] = d1 * static_cast<float>(q) - m1;
    }
  }
}

void q6_k(const Byte* in, float* out) {
  const Byte* low = in;         // 128 bytes of low nibbles
  const Byte* high = in + 128;  // 64 bytes of upper bit pairs
  const Byte* scales = in + 192;
  const float d = load_f16(in + 208);
  for (int half = 0; half < 2; ++half, low += 64, high += 32) {
    for (int quarter = 0; quarter < 4; ++quarter) {  // 32 elements, two sub-blocks of 16
      const Byte* nibbles = low + 32 * (quarter % 2);
      for (int sub = 0; sub < 2; ++sub, ++scales, out += 16) {
        const float scale = d * static_cast<float>(static_cast<std::int8_t>(*scales));
        for (int i = 0; i < 16; ++i) {
          const int at = 16 * sub + i;
          const int q = (nibbles[at] >> (4 * (quarter / 2)) & 0x0f) | (high[at] >> (2 * quarter) & 3) << 4;
          out[i] = scale * static_cast<float>(q - 32);
        }
      }
    }
  }
}

}  // namespace

void dequantise(DType type, const std::byte* in, std::int64_t blocks, float* out) {
  const auto* bytes = reinterpret_cast<const Byte*>(in);
  const auto each = [&]<auto Decode, int Bytes, int Elements>() {
    for (std::int64_t i = 0; i < blocks; ++i) Decode(bytes + i * Bytes, out + i * Elements);
  };
  switch (type) {
    case DType::f32:
      if (blocks > 0) std::memcpy(out, in, static_cast<std::size_t>(blocks) * sizeof(float));
      return;
    case DType::f16:
      for (std::int64_t i = 0; i < blocks; ++i) out[i] = from_f16(load16(bytes + 2 * i));
      return;
    case DType::bf16:
      for (std::int64_t i = 0; i < blocks; ++i) out[i] = from_bf16(load16(bytes + 2 * i));
      return;
    case DType::q4_0:
      return each.operator()<q4_0, 18, 32>();
    case DType::q4_1:
      return each.operator()<q4_1, 20, 32>();
    case DType::q5_0:
      return each.operator()<q5_0, 22, 32>();
    case DType::q5_1:
      return each.operator()<q5_1, 24, 32>();
    case DType::q8_0:
      return each.operator()<q8_0, 34, 32>();
    case DType::q4_k:
      return each.operator()<q4_k, 144, 256>();
    case DType::q5_k:
      return each.operator()<q5_k, 176, 256>();
    case DType::q6_k:
      return each.operator()<q6_k, 210, 256>();
  }
}

}  // namespace fathom
