#include "formats/dequantise.h"

#include <cstring>

#include "base/error.h"
#include "formats/float16.h"
#include "formats/float8.h"

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
void split_nibbles(const Byte* in, int zero, std::int8_t* q) {
  for (int i = 0; i < 16; ++i) q[i] = static_cast<std::int8_t>((in[i] & 0x0f) - zero);
  for (int i = 0; i < 16; ++i) q[16 + i] = static_cast<std::int8_t>((in[i] >> 4) - zero);
}

/// Adds the fifth bits of 32 elements, one bit each in 4 bytes.
void add_fifth_bits(const Byte* in, std::int8_t* q) {
  for (int i = 0; i < 32; ++i) q[i] = static_cast<std::int8_t>(q[i] + ((in[i / 8] >> (i % 8) & 1) << 4));
}

// Each decoder takes one block to its whole numbers and to the scales (and minima) of its groups.

// Blocks of 32: one scale d (and, in the _1 types, one minimum m), both f16, before the quants.

void q4_0(const Byte* in, std::int8_t* q, float* scales, float*) {
  scales[0] = load_f16(in);
  split_nibbles(in + 2, 8, q);
}

void q4_1(const Byte* in, std::int8_t* q, float* scales, float* minima) {
  scales[0] = load_f16(in);
  minima[0] = load_f16(in + 2);
  split_nibbles(in + 4, 0, q);
}

void q5_0(const Byte* in, std::int8_t* q, float* scales, float*) {
  scales[0] = load_f16(in);
  split_nibbles(in + 6, 16, q);
  add_fifth_bits(in + 2, q);
}

void q5_1(const Byte* in, std::int8_t* q, float* scales, float* minima) {
  scales[0] = load_f16(in);
  minima[0] = load_f16(in + 2);
  split_nibbles(in + 8, 0, q);
  add_fifth_bits(in + 4, q);
}

void q8_0(const Byte* in, std::int8_t* q, float* scales, float*) {
  scales[0] = load_f16(in);
  std::memcpy(q, in + 2, 32);
}

// Blocks of 256 ("super-blocks"): f16 scales of the scales of 8 or 16 sub-blocks, which are the groups. Their
// decoders leave both as they are.

/// The upper or lower pairs of bits: elements 32 j to 32 j + 31 of each half have bits 2 j and 2 j + 1 of 32
/// bytes.
int bit_pair(const Byte* in, int i) { return in[i / 128 * 32 + i % 32] >> (i % 128 / 32 * 2) & 3; }

void q2_k(const Byte* in, std::int8_t* q, SuperScales& to) {
  to.scale = load_f16(in + 80);
  to.minimum = load_f16(in + 82);
  for (int j = 0; j < 16; ++j) {
    to.scales[j] = static_cast<std::int8_t>(in[j] & 0x0f);
    to.minima[j] = in[j] >> 4;
  }
  for (int i = 0; i < 256; ++i) q[i] = static_cast<std::int8_t>(bit_pair(in + 16, i));
}

/// 16 scales of 6 bits in 12 bytes: the low 4 bits of j in byte j % 8, the upper 2 in byte 8 + j % 4. A third
/// bit of each element i is bit i / 32 of byte i % 32, and stands for 4 where it is set and 0 otherwise.
void q3_k(const Byte* in, std::int8_t* q, SuperScales& to) {
  const Byte* packed = in + 96;
  to.scale = load_f16(in + 108);
  for (int j = 0; j < 16; ++j) {
    const int low = packed[j % 8] >> (j / 8 * 4) & 0x0f, high = packed[8 + j % 4] >> (j / 4 * 2) & 3;
    to.scales[j] = static_cast<std::int8_t>((low | high << 4) - 32);
  }
  for (int i = 0; i < 256; ++i)
    q[i] = static_cast<std::int8_t>(bit_pair(in + 32, i) + ((in[i % 32] >> (i / 32) & 1) << 2) - 4);
}

/// Scale and minimum of 8 sub-blocks of 32, 6 bits each in 12 bytes: sub-blocks 0 to 3 have theirs in the low
/// 6 bits of bytes 0 to 3 and 4 to 7; those of 4 to 7 have 4 bits in bytes 8 to 11 and 2 at the top of the
/// former.
void sub_block_scales(const Byte* in, SuperScales& to) {
  for (int j = 0; j < 4; ++j) {
    to.scales[j] = static_cast<std::int8_t>(in[j] & 0x3f);
    to.minima[j] = in[4 + j] & 0x3f;
    to.scales[4 + j] = static_cast<std::int8_t>((in[8 + j] & 0x0f) | (in[j] >> 2 & 0x30));
    to.minima[4 + j] = static_cast<std::uint8_t>(in[8 + j] >> 4 | (in[4 + j] >> 2 & 0x30));
  }
}

/// Two sub-blocks of 32 lie in the lower and the upper halves of 32 bytes.
void split_pairs_of_sub_blocks(const Byte* in, std::int8_t* q) {
  for (int pair = 0; pair < 4; ++pair, in += 32, q += 64) {
    for (int i = 0; i < 32; ++i) q[i] = static_cast<std::int8_t>(in[i] & 0x0f);
    for (int i = 0; i < 32; ++i) q[32 + i] = static_cast<std::int8_t>(in[i] >> 4);
  }
}

void q4_k(const Byte* in, std::int8_t* q, SuperScales& to) {
  to.scale = load_f16(in);
  to.minimum = load_f16(in + 2);
  sub_block_scales(in + 4, to);
  split_pairs_of_sub_blocks(in + 16, q);
}

void q5_k(const Byte* in, std::int8_t* q, SuperScales& to) {
  to.scale = load_f16(in);
  to.minimum = load_f16(in + 2);
  sub_block_scales(in + 4, to);
  split_pairs_of_sub_blocks(in + 48, q);
  const Byte* high = in + 16;  // bit j of byte i: the fifth bit of element i of sub-block j
  for (int j = 0; j < 8; ++j)
    for (int i = 0; i < 32; ++i)
      q[j * 32 + i] = static_cast<std::int8_t>(q[j * 32 + i] + ((high[i] >> j & 1) << 4));
}

void q6_k(const Byte* in, std::int8_t* q, SuperScales& to) {
  const Byte* high = in + 128;  // 64 bytes of upper bit pairs behind 128 of low nibbles
  to.scale = load_f16(in + 208);
  std::memcpy(to.scales, in + 192, sizeof to.scales);
  for (int half = 0; half < 2; ++half, in += 64, high += 32)
    for (int quarter = 0; quarter < 4; ++quarter, q += 32)
      for (int i = 0; i < 32; ++i) {
        const int low = in[32 * (quarter % 2) + i] >> (4 * (quarter / 2)) & 0x0f;
        q[i] = static_cast<std::int8_t>((low | (high[i] >> (2 * quarter) & 3) << 4) - 32);
      }
}

using Decoder = void (*)(const Byte* in, std::int8_t* q, float* scales, float* minima);

// A super-block's with the products that its groups' scales and minima are.
template <void (*decode)(const Byte* in, std::int8_t* q, SuperScales& to), DType type>
void with_products(const Byte* in, std::int8_t* q, float* scales, float* minima) {
  SuperScales super;
  decode(in, q, super);
  const Grouping grouping = grouping_of(type);
  for (int j = 0; j < 256 / grouping.size; ++j) {
    scales[j] = super.scale * static_cast<float>(super.scales[j]);
    if (grouping.minima) minima[j] = -(super.minimum * static_cast<float>(super.minima[j]));
  }
}

Decoder decoder_of(DType type) {
  switch (type) {
    case DType::q4_0:
      return q4_0;
    case DType::q4_1:
      return q4_1;
    case DType::q5_0:
      return q5_0;
    case DType::q5_1:
      return q5_1;
    case DType::q8_0:
      return q8_0;
    case DType::q2_k:
      return with_products<q2_k, DType::q2_k>;
    case DType::q3_k:
      return with_products<q3_k, DType::q3_k>;
    case DType::q4_k:
      return with_products<q4_k, DType::q4_k>;
    case DType::q5_k:
      return with_products<q5_k, DType::q5_k>;
    case DType::q6_k:
      return with_products<q6_k, DType::q6_k>;
    default:
      fail("{} has no integers", dtype_name(type));
  }
}

using SuperDecoder = void (*)(const Byte* in, std::int8_t* q, SuperScales& to);

SuperDecoder super_decoder_of(DType type) {
  switch (type) {
    case DType::q2_k:
      return q2_k;
    case DType::q3_k:
      return q3_k;
    case DType::q4_k:
      return q4_k;
    case DType::q5_k:
      return q5_k;
    case DType::q6_k:
      return q6_k;
    default:
      fail("{} has no super-blocks", dtype_name(type));
  }
}

void dequantise_block(Decoder decode, const Grouping& grouping, int elements, const Byte* in, float* out) {
  std::int8_t q[256];
  float scales[16], minima[16];
  decode(in, q, scales, minima);
  for (int i = 0; i < elements; i += grouping.size) {
    const float scale = scales[i / grouping.size], minimum = minima[i / grouping.size];
    for (int j = i; j < i + grouping.size; ++j) out[j] = scale * static_cast<float>(q[j]);
    if (grouping.minima)
      for (int j = i; j < i + grouping.size; ++j) out[j] += minimum;
  }
}

}  // namespace

Grouping grouping_of(DType type) {
  switch (type) {
    case DType::f32:
    case DType::f16:
    case DType::bf16:
    case DType::f64:
    case DType::f8_e4m3:
    case DType::f8_e5m2:
      return {};
    case DType::q4_0:
      return {.size = 32, .bits = 4, .half = true};
    case DType::q4_1:
      return {.size = 32, .bits = 4, .minima = true, .half = true};
    case DType::q5_0:
      return {.size = 32, .bits = 5, .half = true};
    case DType::q5_1:
      return {.size = 32, .bits = 5, .minima = true, .half = true};
    case DType::q8_0:
      return {.size = 32, .bits = 8, .half = true};
    case DType::q2_k:
      return {.size = 16, .bits = 2, .minima = true, .super = true};
    case DType::q3_k:
      return {.size = 16, .bits = 3, .super = true};
    case DType::q4_k:
      return {.size = 32, .bits = 4, .minima = true, .super = true};
    case DType::q5_k:
      return {.size = 32, .bits = 5, .minima = true, .super = true};
    case DType::q6_k:
      return {.size = 16, .bits = 6, .super = true};
  }
  return {};
}

void unpack(DType type, const std::byte* in, std::int64_t blocks, std::int8_t* q, float* scales,
            float* minima) {
  const Decoder decode = decoder_of(type);
  const std::int64_t elements = block_elements(type), groups = elements / grouping_of(type).size;
  for (std::int64_t i = 0; i < blocks; ++i)
    decode(reinterpret_cast<const Byte*>(in) + i * block_bytes(type), q + i * elements, scales + i * groups,
           minima + i * groups);
}

void unpack(DType type, const std::byte* in, std::int64_t blocks, std::int8_t* q, SuperScales* scales) {
  const SuperDecoder decode = super_decoder_of(type);
  for (std::int64_t i = 0; i < blocks; ++i)
    decode(reinterpret_cast<const Byte*>(in) + i * block_bytes(type), q + i * block_elements(type),
           scales[i]);
}

void dequantise(DType type, const std::byte* in, std::int64_t blocks, float* out) {
  const auto* bytes = reinterpret_cast<const Byte*>(in);
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
    case DType::f64:
      for (std::int64_t i = 0; i < blocks; ++i) {
        double value = 0;
        std::memcpy(&value, bytes + 8 * i, sizeof value);
        out[i] = static_cast<float>(value);
      }
      return;
    case DType::f8_e4m3:
      for (std::int64_t i = 0; i < blocks; ++i) out[i] = from_f8_e4m3(bytes[i]);
      return;
    case DType::f8_e5m2:
      for (std::int64_t i = 0; i < blocks; ++i) out[i] = from_f8_e5m2(bytes[i]);
      return;
    default:
      break;
  }
  const Decoder decode = decoder_of(type);
  const Grouping grouping = grouping_of(type);
  const auto elements = static_cast<int>(block_elements(type));
  for (std::int64_t i = 0; i < blocks; ++i)
    dequantise_block(decode, grouping, elements, bytes + i * block_bytes(type), out + i * elements);
}

}  // namespace fathom
