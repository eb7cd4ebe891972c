#include "formats/quantise.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <cstring>
#include <limits>

#include "base/error.h"
#include "formats/float16.h"

namespace fathom {
namespace {

using Byte = std::uint8_t;

/// False where it becomes infinite.
bool store_f16(float value, Byte* out) {
  const std::uint16_t half = to_f16(value);
  std::memcpy(out, &half, sizeof half);
  return (half & 0x7c00U) != 0x7c00U;
}

float load_f16(const Byte* in) {
  std::uint16_t half = 0;
  std::memcpy(&half, in, sizeof half);
  return from_f16(half);
}

float inverse(float scale) { return scale == 0 ? 0 : 1 / scale; }

/// The value that is farthest from zero, with its sign; the first of several.
float farthest(const float* in) {
  float value = 0;
  for (int i = 0; i < 32; ++i)
    if (std::abs(in[i]) > std::abs(value)) value = in[i];
  return value;
}

/// 32 whole numbers from -127 to 127.
bool q8_0(const float* in, Byte* out) {
  const float scale = std::abs(farthest(in)) / 127, factor = inverse(scale);
  for (int i = 0; i < 32; ++i)
    out[2 + i] = static_cast<Byte>(static_cast<std::int8_t>(std::round(in[i] * factor)));
  return store_f16(scale, out);
}

/// 32 whole numbers from -8 to 7, of which the farthest value becomes -8; elements 0 to 15 in the lower
/// halves of 16 bytes.
bool q4_0(const float* in, Byte* out) {
  const float scale = farthest(in) / -8, factor = inverse(scale);
  const auto nibble = [&](float value) { return std::min(static_cast<int>(value * factor + 8.5F), 15); };
  for (int i = 0; i < 16; ++i) out[2 + i] = static_cast<Byte>(nibble(in[i]) | nibble(in[16 + i]) << 4);
  return store_f16(scale, out);
}

/// 32 whole numbers from -16 to 15 in the same way, their fifth bits in 4 bytes of their own.
bool q5_0(const float* in, Byte* out) {
  const float scale = farthest(in) / -16, factor = inverse(scale);
  std::uint32_t fifth = 0;
  std::fill(out + 6, out + 22, Byte{0});
  for (int i = 0; i < 32; ++i) {
    const int q = std::min(static_cast<int>(in[i] * factor + 16.5F), 31);
    out[6 + i % 16] = static_cast<Byte>(out[6 + i % 16] | (q & 0x0f) << (i / 16 * 4));
    fifth |= static_cast<std::uint32_t>(q >> 4) << i;
  }
  std::memcpy(out + 2, &fifth, sizeof fifth);
  return store_f16(scale, out);
}

/// scale * q - minimum for q from 0 to 15, with neither of them negative.
struct Line {
  float scale = 0, minimum = 0;
};

int nearest(float value, int most) { return std::clamp(static_cast<int>(std::nearbyint(value)), 0, most); }

/// The line that 32 values lie nearest to, each weighted by its size: whole numbers from several steps
/// between the least and the largest value, and for each of them the line of least squares.
Line fit_line(const float* in) {
  float square = 0;
  for (int i = 0; i < 32; ++i) square += in[i] * in[i];
  const float typical = std::sqrt(square / 32);
  const float least = std::min(*std::min_element(in, in + 32), 0.0F), most = *std::max_element(in, in + 32);
  if (most <= least) return {0, -least};
  Line best{(most - least) / 15, -least};
  float least_error = std::numeric_limits<float>::infinity();
  for (float levels = 14; levels <= 16; levels += 0.1F) {
    const float factor = levels / (most - least);
    float w = 0, wx = 0, wq = 0, wqq = 0, wqx = 0;
    const auto weight = [&](int i) { return typical + std::abs(in[i]); };
    const auto level = [&](int i) { return static_cast<float>(nearest(factor * (in[i] - least), 15)); };
    for (int i = 0; i < 32; ++i) {
      const float q = level(i), weighted = weight(i) * q;
      w += weight(i);
      wx += weight(i) * in[i];
      wq += weighted;
      wqq += weighted * q;
      wqx += weighted * in[i];
    }
    const float determinant = w * wqq - wq * wq;
    if (determinant <= 0) continue;
    Line line{(w * wqx - wx * wq) / determinant, (wq * wqx - wqq * wx) / determinant};
    if (line.minimum < 0) line = {wqx / wqq, 0};
    float error = 0;
    for (int i = 0; i < 32; ++i) {
      const float miss = line.scale * level(i) - line.minimum - in[i];
      error += weight(i) * miss * miss;
    }
    if (error >= least_error || line.scale < 0) continue;
    least_error = error;
    best = line;
  }
  return best;
}

/// 8 lines of 32 values each, whose scales and minima are whole numbers from 0 to 63 times an f16 of the
/// block.
bool q4_k(const float* in, Byte* out) {
  std::array<Line, 8> lines;
  Line largest;
  for (std::size_t j = 0; j < lines.size(); ++j) {
    lines[j] = fit_line(in + 32 * j);
    largest = {std::max(largest.scale, lines[j].scale), std::max(largest.minimum, lines[j].minimum)};
  }
  const bool finite = store_f16(largest.scale / 63, out) && store_f16(largest.minimum / 63, out + 2);
  const float scale = load_f16(out), minimum = load_f16(out + 2);
  Byte* packed = out + 4;
  std::fill(packed, packed + 12, Byte{0});
  for (int j = 0; j < 8; ++j) {
    const Line& line = lines[static_cast<std::size_t>(j)];
    const int a = nearest(63 * inverse(largest.scale) * line.scale, 63);
    const int b = nearest(63 * inverse(largest.minimum) * line.minimum, 63);
    if (j < 4) {
      packed[j] = static_cast<Byte>(packed[j] | a);
      packed[4 + j] = static_cast<Byte>(packed[4 + j] | b);
    } else {
      packed[4 + j] = static_cast<Byte>((a & 0x0f) | (b & 0x0f) << 4);
      packed[j - 4] = static_cast<Byte>(packed[j - 4] | (a >> 4) << 6);
      packed[j] = static_cast<Byte>(packed[j] | (b >> 4) << 6);
    }
    const float step = inverse(scale * static_cast<float>(a)), offset = minimum * static_cast<float>(b);
    for (int i = 0; i < 32; ++i) {
      const int q = nearest((in[32 * j + i] + offset) * step, 15);
      Byte& at = out[16 + j / 2 * 32 + i];
      at = static_cast<Byte>(j % 2 == 0 ? q : at | q << 4);
    }
  }
  return finite;
}

using Block = bool (*)(const float* in, Byte* out);

/// Nothing for types that are read alone.
Block block_of(DType type) {
  switch (type) {
    case DType::q8_0:
      return q8_0;
    case DType::q5_0:
      return q5_0;
    case DType::q4_0:
      return q4_0;
    case DType::q4_k:
      return q4_k;
    default:
      return nullptr;
  }
}

}  // namespace

bool can_quantise(DType type) { return block_of(type) != nullptr; }

bool quantise(DType type, const float* in, std::int64_t blocks, std::byte* out) {
  const Block block = block_of(type);
  if (block == nullptr) fail("{} is no type that is written", dtype_name(type));
  auto* to = reinterpret_cast<Byte*>(out);
  bool finite = true;
  for (std::int64_t i = 0; i < blocks; ++i)
    finite = block(in + i * block_elements(type), to + i * block_bytes(type)) && finite;
  return finite;
}

}  // namespace fathom
