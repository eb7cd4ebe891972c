// What integers weights and activations become, and that products with them agree at every level of
// instruction sets.
#include "kernels/quantise.h"

#include <fmt/format.h>
#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <numeric>
#include <vector>

#include "base/random.h"
#include "kernels/aligned.h"
#include "kernels/product.h"

namespace fathom {
namespace {

std::vector<float> normals(std::uint64_t seed, std::int64_t count) {
  Random random(seed);
  std::vector<float> values(static_cast<std::size_t>(count));
  for (float& v : values) v = static_cast<float>(random.normal());
  return values;
}

double relative_error(const std::vector<float>& weights, const std::vector<float>& rounded) {
  double error = 0, size = 0;
  for (std::size_t i = 0; i < weights.size(); ++i) {
    error += std::pow(weights[i] - rounded[i], 2);
    size += std::pow(weights[i], 2);
  }
  return std::sqrt(error / size);
}

TEST(Quantise, Int8KeepsEveryWeightWithinHalfAStep) {
  const auto weights = normals(1, 1000);
  std::vector<std::int8_t> q(weights.size());
  const float scale = quantise_int8(weights, q);
  for (std::size_t i = 0; i < weights.size(); ++i) EXPECT_NEAR(scale * q[i], weights[i], scale * 0.5001);
}

TEST(Quantise, Int4IsAsGoodAsAFloatScaleAGroup) {
  const auto weights = normals(2, 32 * 40);
  std::vector<std::uint8_t> q(weights.size());
  std::vector<std::int8_t> multipliers(40);
  const float scale = quantise_int4(weights, q, multipliers);
  std::vector<float> rounded, plain;
  for (std::size_t i = 0; i < weights.size(); ++i)
    rounded.push_back(scale * static_cast<float>(multipliers[i / 32] * (q[i] - 8)));
  for (std::size_t g = 0; g < weights.size(); g += 32) {  // as GGUF's Q4_0: the largest becomes -8
    float largest = 0;
    for (std::size_t i = g; i < g + 32; ++i)
      if (std::fabs(weights[i]) > std::fabs(largest)) largest = weights[i];
    const float step = largest / -8;
    for (std::size_t i = g; i < g + 32; ++i)
      plain.push_back(step * std::fmin(7.0F, std::nearbyint(weights[i] / step)));
  }
  EXPECT_LT(relative_error(weights, rounded), relative_error(weights, plain));
  EXPECT_LT(relative_error(weights, rounded), 0.1);
}

TEST(Quantise, ZerosAndWeightsThatAreNoNumbers) {
  std::vector<float> weights(40, 0.0F);
  std::vector<std::int8_t> q8(40);
  std::vector<std::uint8_t> q4(40);
  std::vector<std::int8_t> multipliers(2);
  EXPECT_EQ(quantise_int8(weights, q8), 0);
  EXPECT_EQ(quantise_int4(weights, q4, multipliers), 0);
  weights[7] = std::numeric_limits<float>::infinity();
  EXPECT_TRUE(std::isnan(quantise_int8(weights, q8)));
  EXPECT_TRUE(std::isnan(quantise_int4(weights, q4, multipliers)));
}

// Whole numbers do not depend on who adds them up: each level must give the portable one's results to the
// last bit.
TEST(Products, IntegersAgreeAtEveryLevel) {
  for (const Compute type : {Compute::int8, Compute::int4}) {
    for (const std::int64_t in : {5, 64, 100, 576}) {
      for (const std::int64_t out : {1, 16, 50, 150}) {
        const Tensor weight = make_tensor(DType::f32, {out, in}, normals(3, out * in));
        const std::vector<LinearPart> parts = {{&weight, nullptr}};
        const PackedMatrix packed = pack_matrix(parts, false, type);
        const std::int64_t rows = 37, stride = packed.padded_in * 16;
        AlignedBuffer values(static_cast<std::size_t>(4 * stride));
        std::vector<float> scales(static_cast<std::size_t>(rows));
        std::vector<std::int32_t> sums(static_cast<std::size_t>(rows * packed.groups()));
        const auto x = normals(4, rows * in);
        for (std::int64_t r = 0; r < rows; ++r) {
          std::vector<std::int8_t> row(static_cast<std::size_t>(packed.padded_in));
          scales[static_cast<std::size_t>(r)] =
              quantise_activations({x.data() + r * in, static_cast<std::size_t>(in)},
                                   std::span(row).first(static_cast<std::size_t>(in)));
          for (std::int64_t i = 0; i < packed.padded_in; ++i)
            values.as<std::int8_t>()[tiled_offset(stride, r, i)] = row[static_cast<std::size_t>(i)];
          for (std::int64_t g = 0; g < packed.groups(); ++g)
            sums[static_cast<std::size_t>(r * packed.groups() + g)] =
                std::accumulate(row.begin() + g * 32, row.begin() + (g + 1) * 32, 0);
        }
        const Activations activations = {values.as<std::byte>(), stride, scales.data(), sums.data()};
        AlignedBuffer scratch(static_cast<std::size_t>(product_scratch_bytes(packed)));
        std::vector<float> expected;
        for (const Isa level : {Isa::portable, Isa::avx2, Isa::avx512, Isa::amx}) {
          if (level > best_isa()) break;
          for (const Range range :
               {Range{0, rows}, Range{0, 1}, Range{0, 2}, Range{0, 4}, Range{16, 19}, Range{16, 35}}) {
            std::vector<float> y(static_cast<std::size_t>(rows * out));
            product_kernel(type, level)
                .run(packed, activations, range, {0, packed.panels()},
                     {.y = reinterpret_cast<std::byte*>(y.data()), .stride = out}, scratch.as<std::byte>());
            if (expected.empty()) expected = y;
            for (std::int64_t i = range.first * out; i < range.last * out; ++i)
              ASSERT_EQ(y[static_cast<std::size_t>(i)], expected[static_cast<std::size_t>(i)])
                  << fmt::format("{} level {} in {} out {} rows {}-{}", static_cast<int>(type),
                                 isa_name(level), in, out, range.first, range.last);
          }
        }
      }
    }
  }
}

}  // namespace
}  // namespace fathom
