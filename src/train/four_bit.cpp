#include "train/four_bit.h"

#include <algorithm>
#include <cmath>
#include <numeric>

#include "base/threads.h"
#include "formats/float16.h"
#include "kernels/quantise.h"

namespace fathom {
namespace {

constexpr std::int64_t scales_together = 256;

/// The nearest code: how many of the middles between two codes lie below. A value that is no number becomes
/// -1 with a scale that is none.
std::uint8_t nearest_nf4(float value) {
  int code = 0;
  for (std::size_t i = 1; i < nf4_codes.size(); ++i) code += value > 0.5F * (nf4_codes[i - 1] + nf4_codes[i]);
  return static_cast<std::uint8_t>(code);
}

void put(float value, float& to) { to = value; }
void put(float value, std::uint16_t& to) { to = to_bf16(value); }

}  // namespace

FourBitMatrix::FourBitMatrix(FrozenType type, std::int64_t rows, std::int64_t columns,
                             std::span<const float> values)
    : type_(type), rows_(rows), columns_(columns), block_(type == FrozenType::nf4 ? 64 : group_size) {
  const std::int64_t blocks = rows * row_blocks();
  codes_.resize(static_cast<std::size_t>(blocks * block_ / 2));
  std::vector<float> scales(static_cast<std::size_t>(blocks));
  parallel_for(rows, [&](std::int64_t row) {
    encode_row(row, values.data() + row * columns_, scales.data() + row * row_blocks());
  });
  quantise_scales(scales);
}

void FourBitMatrix::encode_row(std::int64_t row, const float* values, float* scales) {
  std::uint8_t* to = codes_.data() + row * row_blocks() * block_ / 2;
  std::array<std::uint8_t, 64> codes{};
  std::array<std::int8_t, 64> whole{};
  for (std::int64_t first = 0; first < columns_; first += block_, ++scales) {
    const auto count = static_cast<std::size_t>(std::min(block_, columns_ - first));
    const std::span<const float> block(values + first, count);
    codes.fill(0);
    if (type_ == FrozenType::nf4) {
      float most = 0;
      for (const float value : block) most = std::isnan(value) ? value : std::max(most, std::fabs(value));
      *scales = most;
      const float inverse = most == 0 ? 0 : 1 / most;
      for (std::size_t i = 0; i < count; ++i) codes[i] = nearest_nf4(block[i] * inverse);
    } else {
      *scales = quantise_int4_group(block, std::span(whole).first(count));
      for (std::size_t i = 0; i < count; ++i) codes[i] = static_cast<std::uint8_t>(whole[i] + 8);
    }
    const std::int64_t half = block_ / 2;
    for (std::int64_t j = 0; j < half; ++j)
      *to++ = static_cast<std::uint8_t>(codes[j] | codes[j + half] << 4);
  }
}

void FourBitMatrix::quantise_scales(std::span<const float> scales) {
  if (type_ == FrozenType::int4) {
    for (const float scale : scales) half_scales_.push_back(to_f16(scale));
    return;
  }
  const double sum = std::accumulate(scales.begin(), scales.end(), 0.0);
  mean_scale_ = static_cast<float>(sum / static_cast<double>(scales.size()));
  scales_.resize(scales.size());
  for (std::size_t first = 0; first < scales.size(); first += scales_together) {
    std::vector<float> around(
        scales.begin() + static_cast<std::ptrdiff_t>(first),
        scales.begin() + static_cast<std::ptrdiff_t>(std::min(first + scales_together, scales.size())));
    for (float& scale : around) scale -= mean_scale_;
    scale_steps_.push_back(quantise_int8(around, std::span(scales_).subspan(first, around.size())));
  }
}

float FourBitMatrix::scale(std::int64_t block) const {
  if (type_ == FrozenType::int4) return from_f16(half_scales_[block]);
  return mean_scale_ + scale_steps_[block / scales_together] * static_cast<float>(scales_[block]);
}

std::int64_t FourBitMatrix::bytes() const {
  return static_cast<std::int64_t>(codes_.size() + 2 * half_scales_.size() + scales_.size() +
                                   4 * scale_steps_.size() + sizeof mean_scale_);
}

template <typename T>
void FourBitMatrix::decode_as(T* to) const {
  const std::int64_t half = block_ / 2;
  parallel_for(rows_, [&](std::int64_t row) {
    T* out = to + row * columns_;
    for (std::int64_t block = 0; block < row_blocks(); ++block, out += block_) {
      const std::int64_t number = row * row_blocks() + block;
      const float unit = scale(number);
      T table[16];
      for (int code = 0; code < 16; ++code) {
        put(unit * (type_ == FrozenType::nf4 ? nf4_codes[code] : static_cast<float>(code - 8)), table[code]);
      }
      const std::uint8_t* from = codes_.data() + number * half;
      const std::int64_t count = std::min(block_, columns_ - block * block_);
      const std::int64_t lower = std::min(count, half);
      for (std::int64_t j = 0; j < lower; ++j) out[j] = table[from[j] & 15];
      for (std::int64_t j = half; j < count; ++j) out[j] = table[from[j - half] >> 4];
    }
  });
}

void FourBitMatrix::decode(std::uint16_t* to) const { decode_as(to); }
void FourBitMatrix::decode(float* to) const { decode_as(to); }

}  // namespace fathom
