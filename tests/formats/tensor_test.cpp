#include "formats/tensor.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <bit>
#include <cmath>
#include <limits>

#include "base/error.h"
#include "base/random.h"
#include "formats/float16.h"
#include "formats/float8.h"
#include "formats/gguf.h"
#include "formats/safetensors.h"

namespace fathom {
namespace {

const std::filesystem::path data = std::filesystem::path(FATHOM_TEST_DATA) / "formats";

std::vector<std::uint32_t> bits(std::span<const float> values) {
  std::vector<std::uint32_t> result;
  for (const float value : values) result.push_back(std::bit_cast<std::uint32_t>(value));
  return result;
}

/// The definition of IEEE 754 binary16.
float f16_by_definition(std::uint16_t half) {
  const int exponent = half >> 10 & 0x1f, mantissa = half & 0x3ff;
  const float sign = (half & 0x8000) != 0 ? -1.0F : 1.0F;
  if (exponent == 0x1f) return mantissa == 0 ? sign * INFINITY : NAN;
  if (exponent == 0) return sign * std::ldexp(static_cast<float>(mantissa), -24);
  return sign * std::ldexp(static_cast<float>(1024 + mantissa), exponent - 25);
}

TEST(Float16, EveryHalfHasTheValueOfItsDefinitionAndComesBack) {
  for (std::uint32_t i = 0; i <= 0xffff; ++i) {
    const auto half = static_cast<std::uint16_t>(i);
    const float value = f16_by_definition(half);
    if (std::isnan(value)) {
      ASSERT_TRUE(std::isnan(from_f16(half))) << i;
      ASSERT_TRUE(std::isnan(from_f16(to_f16(value)))) << i;
    } else {
      ASSERT_EQ(std::bit_cast<std::uint32_t>(from_f16(half)), std::bit_cast<std::uint32_t>(value)) << i;
      ASSERT_EQ(to_f16(value), half);
    }
  }
}

/// The definitions of OCP's 8-bit formats (E4M3: one NaN of each sign, no infinities).
float f8_by_definition(int bits, int mantissa_bits, int bias, bool ieee) {
  const int exponent = (bits & 0x7f) >> mantissa_bits, mantissa = bits & ((1 << mantissa_bits) - 1);
  const float sign = (bits & 0x80) != 0 ? -1.0F : 1.0F;
  if (ieee && exponent == 0x1f) return mantissa == 0 ? sign * INFINITY : NAN;
  if (!ieee && (bits & 0x7f) == 0x7f) return NAN;
  const float fraction = std::ldexp(static_cast<float>(mantissa), -mantissa_bits);
  if (exponent == 0) return sign * std::ldexp(fraction, 1 - bias);
  return sign * std::ldexp(1 + fraction, exponent - bias);
}

TEST(Float8, EveryByteHasTheValueOfItsDefinition) {
  for (int i = 0; i < 256; ++i) {
    const auto byte = static_cast<std::uint8_t>(i);
    const auto same = [](float a, float b) {
      return std::isnan(a) ? std::isnan(b)
                           : std::bit_cast<std::uint32_t>(a) == std::bit_cast<std::uint32_t>(b);
    };
    EXPECT_TRUE(same(f8_by_definition(i, 3, 7, false), from_f8_e4m3(byte))) << i;
    EXPECT_TRUE(same(f8_by_definition(i, 2, 15, true), from_f8_e5m2(byte))) << i;
  }
}

TEST(Float16, BetweenTwoNumbersTheNearestIsTakenAndOfEqualsTheEvenOne) {
  for (std::uint16_t half = 0; half < 0x7bff; ++half) {
    const float low = f16_by_definition(half), high = f16_by_definition(half + 1);
    const float middle = (low + high) / 2;  // exact in float
    const std::uint16_t even = half % 2 == 0 ? half : half + 1;
    ASSERT_EQ(to_f16(middle), even) << half;
    ASSERT_EQ(to_f16(std::nextafter(middle, 0.0F)), half) << half;
    ASSERT_EQ(to_f16(std::nextafter(middle, INFINITY)), half + 1) << half;
    ASSERT_EQ(to_f16(-middle), even | 0x8000) << half;
  }
  EXPECT_EQ(to_f16(65519.0F), 0x7bff);
  EXPECT_EQ(to_f16(65520.0F), 0x7c00);
  EXPECT_EQ(to_f16(1e38F), 0x7c00);
}

TEST(BFloat16, RoundsToNearestEvenAndKeepsNaN) {
  Random random(3);
  for (int i = 0; i < 100'000; ++i) {
    const auto word = static_cast<std::uint32_t>(random.next());
    const auto value = std::bit_cast<float>(word);
    const float rounded = from_bf16(to_bf16(value));
    if (std::isnan(value)) {
      ASSERT_TRUE(std::isnan(rounded)) << word;
      continue;
    }
    const float down = from_bf16(static_cast<std::uint16_t>(word >> 16));  // towards zero
    const std::uint32_t tail = word & 0xffffU;
    const bool up = tail > 0x8000U || (tail == 0x8000U && (word >> 16 & 1U) == 1);
    ASSERT_EQ(std::bit_cast<std::uint32_t>(rounded),
              std::bit_cast<std::uint32_t>(down) + (up ? 0x10000U : 0U))
        << word;
  }
  EXPECT_TRUE(std::isnan(from_bf16(to_bf16(std::bit_cast<float>(0x7f800001U)))));
  EXPECT_EQ(to_bf16(std::numeric_limits<float>::max()), 0x7f80);
}

class EveryType : public testing::TestWithParam<const char*> {};

TEST_P(EveryType, DecodesToTheLastBitAsGgufPyDoes) {
  const Tensor tensor = GgufFile(data / "types.gguf").tensors().at(GetParam());
  const Tensor expected = read_safetensors(data / "types.expected.safetensors").at(GetParam());
  EXPECT_EQ(dtype_name(tensor.dtype), GetParam());
  EXPECT_EQ(tensor.shape, expected.shape);
  const std::vector<float> all = decode(tensor);
  EXPECT_EQ(bits(all), bits(decode(expected)));

  std::vector<float> row(static_cast<std::size_t>(tensor.row_elements()));
  decode_rows(tensor, 1, 1, row);
  EXPECT_EQ(bits(row), bits(std::span(all).subspan(row.size(), row.size())));
}

INSTANTIATE_TEST_SUITE_P(Formats, EveryType,
                         testing::Values("F32", "F16", "BF16", "Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0", "Q2_K",
                                         "Q3_K", "Q4_K", "Q5_K", "Q6_K"),
                         [](const auto& type) { return std::string(type.param); });

TEST(Decode, InterleavedRowsComeBackInHuggingFacesOrder) {
  const TensorMap tensors = read_safetensors(data / "interleaved.safetensors");
  Tensor stored = tensors.at("stored");
  stored.interleaved_heads = 3;
  const std::vector<float> expected = decode(tensors.at("huggingface"));
  EXPECT_EQ(decode(stored), expected);

  std::vector<float> part(7 * 5);  // from within a head into the next
  decode_rows(stored, 4, 7, part);
  EXPECT_EQ(part, std::vector<float>(expected.begin() + 4 * 5, expected.begin() + 11 * 5));
  stored.interleaved_heads = 5;
  EXPECT_THROW(decode(stored), Error);
}

TEST(Decode, TheOffsetIsAddedToEachElement) {
  Tensor gains = make_tensor(DType::bf16, {3}, std::vector<float>{1, 1.5, 2});
  gains.decoded_offset = -1;
  EXPECT_THAT(decode(gains), testing::ElementsAre(0, 0.5, 1));
  EXPECT_FALSE(gains.is_plain());
}

TEST(Decode, RowsThatAreNotThereAreRefused) {
  const Tensor tensor = make_tensor(DType::f32, {2, 3}, std::vector<float>(6));
  std::vector<float> out(3);
  decode_rows(tensor, 1, 1, out);
  EXPECT_THROW(decode_rows(tensor, 2, 1, out), Error);
  EXPECT_THROW(decode_rows(tensor, -1, 1, out), Error);
  EXPECT_THROW(decode_rows(tensor, 0, 2, out), Error);
  EXPECT_THROW(decode_rows(tensor, 1, std::numeric_limits<std::int64_t>::max(), out), Error);
}

TEST(MakeTensor, KeepsValuesThatTheTypeHoldsAndChecksTheirNumber) {
  const std::vector<float> values = {0, -1.5, 256, 0.0078125, -0.0F, INFINITY};
  for (const DType type : {DType::f32, DType::f16, DType::bf16}) {
    EXPECT_EQ(bits(decode(make_tensor(type, {2, 3}, values))), bits(values)) << dtype_name(type);
  }
  EXPECT_TRUE(decode(make_tensor(DType::f16, {0, 4}, {})).empty());
  EXPECT_THROW(make_tensor(DType::f32, {2, 2}, values), Error);
  EXPECT_THROW(make_tensor(DType::q8_0, {6}, values), Error);
}

}  // namespace
}  // namespace fathom
