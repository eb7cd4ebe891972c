#include "train/ops/four_bit.h"

#include <algorithm>
#include <cmath>
#include <numeric>
#include <vector>

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

std::vector<float> meanings(FrozenType type) {
  std::vector<float> result(nf4_codes.begin(), nf4_codes.end());
  if (type == FrozenType::int4) std::iota(result.begin(), result.end(), -8.0F);
  return result;
}

std::int64_t bytes_of(const at::Tensor& tensor) {
  return tensor.defined() ? static_cast<std::int64_t>(tensor.nbytes()) : 0;
}

}  // namespace

FourBitMatrix::FourBitMatrix(FrozenType type, std::int64_t rows, std::int64_t columns,
                             std::span<const float> values)
    : type_(type), rows_(rows), columns_(columns), block_(type == FrozenType::nf4 ? 64 : group_size) {
  const std::int64_t blocks = rows * row_blocks();
  codes_ = at::empty({blocks, block_ / 2}, at::kByte);
  std::vector<float> scales(static_cast<std::size_t>(blocks));
  parallel_for(rows, [&](std::int64_t row) {
    encode_row(row, values.data() + row * columns_, scales.data() + row * row_blocks());
  });
  quantise_scales(scales);
}

void FourBitMatrix::encode_row(std::int64_t row, const float* values, float* scales) {
  std::uint8_t* to = codes_.data_ptr<std::uint8_t>() + row * row_blocks() * block_ / 2;
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
  const auto count = std::ssize(scales);
  if (type_ == FrozenType::int4) {
    scales_ = at::empty({count}, at::kHalf);
    auto* to = static_cast<std::uint16_t*>(scales_.data_ptr());
    for (const float scale : scales) *to++ = to_f16(scale);
    return;
  }
  const double sum = std::accumulate(scales.begin(), scales.end(), 0.0);
  mean_scale_ = static_cast<float>(sum / static_cast<double>(count));
  scales_ = at::empty({count}, at::kChar);
  scale_steps_ = at::empty({(count + scales_together - 1) / scales_together}, at::kFloat);
  for (std::int64_t first = 0; first < count; first += scales_together) {
    const auto together = static_cast<std::size_t>(std::min(scales_together, count - first));
    const auto part = scales.subspan(static_cast<std::size_t>(first), together);
    std::vector<float> around(part.begin(), part.end());
    for (float& scale : around) scale -= mean_scale_;
    scale_steps_.data_ptr<float>()[first / scales_together] =
        quantise_int8(around, {scales_.data_ptr<std::int8_t>() + first, together});
  }
}

float FourBitMatrix::scale(std::int64_t block) const {
  if (type_ == FrozenType::int4)
    return from_f16(static_cast<const std::uint16_t*>(scales_.data_ptr())[block]);
  return mean_scale_ + scale_steps_.const_data_ptr<float>()[block / scales_together] *
                           static_cast<float>(scales_.const_data_ptr<std::int8_t>()[block]);
}

std::int64_t FourBitMatrix::bytes() const {
  return bytes_of(codes_) + bytes_of(scales_) + bytes_of(scale_steps_) +
         static_cast<std::int64_t>(sizeof mean_scale_);
}

void FourBitMatrix::move_to(at::Device device) {
  for (at::Tensor* tensor : {&codes_, &scales_, &scale_steps_}) {
    if (tensor->defined()) *tensor = tensor->to(device);
  }
}

void FourBitMatrix::decode(std::uint16_t* to) const {
  const std::int64_t half = block_ / 2;
  const std::vector<float> meaning = meanings(type_);
  const auto* codes = codes_.const_data_ptr<std::uint8_t>();
  parallel_for(rows_, [&](std::int64_t row) {
    std::uint16_t* out = to + row * columns_;
    for (std::int64_t block = 0; block < row_blocks(); ++block, out += block_) {
      const std::int64_t number = row * row_blocks() + block;
      const float unit = scale(number);
      std::uint16_t table[16];
      for (std::size_t code = 0; code < 16; ++code) table[code] = to_bf16(unit * meaning[code]);
      const std::uint8_t* from = codes + number * half;
      const std::int64_t count = std::min(block_, columns_ - block * block_);
      const std::int64_t lower = std::min(count, half);
      for (std::int64_t j = 0; j < lower; ++j) out[j] = table[from[j] & 15];
      for (std::int64_t j = half; j < count; ++j) out[j] = table[from[j - half] >> 4];
    }
  });
}

at::Tensor FourBitMatrix::decoded(at::ScalarType type) const {
  at::Tensor scales = scales_.to(at::kFloat);
  if (type_ == FrozenType::nf4) {
    const at::Tensor steps = scale_steps_.repeat_interleave(scales_together).narrow(0, 0, scales.numel());
    scales = scales * steps + mean_scale_;
  }
  const std::vector<float> meaning = meanings(type_);
  const at::Tensor table = at::tensor(at::ArrayRef<float>(meaning)).to(codes_.device());
  const at::Tensor numbers = at::cat({codes_.bitwise_and(15), codes_.bitwise_right_shift(4)}, 1).to(at::kInt);
  const at::Tensor values =
      table.index_select(0, numbers.view(-1)).view(numbers.sizes()) * scales.unsqueeze(1);
  return values.view({rows_, row_blocks() * block_}).narrow(1, 0, columns_).to(type).contiguous();
}

}  // namespace fathom
