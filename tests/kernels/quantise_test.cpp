// What integers weights and activations become, and that products with them agree at every level of
// instruction sets.
#include "kernels/quantise.h"

#include <fmt/format.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>
#include <vector>

#include "base/random.h"
#include "formats/float16.h"
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
  std::vector<std::int8_t> q(weights.size()), multipliers(40);
  const float scale = quantise_int4(weights, q, multipliers);
  std::vector<float> rounded, plain;
  for (std::size_t i = 0; i < weights.size(); ++i)
    rounded.push_back(scale * static_cast<float>(multipliers[i / 32] * q[i]));
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

TEST(Quantise, GroupsHaveScalesThatF16HoldsAndLoseHalfAStepAtMost) {
  for (const double size : {1e-3, 1.0, 1e3}) {
    auto weights = normals(5, 32);
    for (float& w : weights) w = static_cast<float>(w * size);
    std::vector<std::int8_t> q(32);
    const float scale = quantise_int8_group(weights, q);
    EXPECT_EQ(from_f16(to_f16(scale)), scale);
    // The rounded scale may be too small for the largest weight by half of f16's last bit.
    for (std::size_t i = 0; i < weights.size(); ++i)
      EXPECT_NEAR(scale * static_cast<float>(q[i]), weights[i], scale * 0.57F);
  }
}

TEST(Quantise, AGroupOfFourBitsIsBetterThanItsLargestWeightAsMinusEight) {
  const auto weights = normals(6, 32 * 40);
  double ours = 0, plain = 0;
  for (std::size_t g = 0; g < 40; ++g) {
    const std::span<const float> group = std::span(weights).subspan(g * 32, 32);
    std::vector<std::int8_t> q(32);
    const float scale = quantise_int4_group(group, q);
    EXPECT_EQ(from_f16(to_f16(scale)), scale);
    const float step = -*std::ranges::max_element(group, {}, [](float w) { return std::fabs(w); }) / 8;
    for (std::size_t i = 0; i < group.size(); ++i) {
      ours += std::pow(group[i] - scale * static_cast<float>(q[i]), 2);
      plain += std::pow(group[i] - step * std::fmin(7.0F, std::nearbyint(group[i] / step)), 2);
    }
  }
  EXPECT_LT(ours, 0.95 * plain);
}

TEST(Quantise, WeightsBeyondEveryScaleOfF16AreClipped) {
  std::vector<float> weights(32, 1.0F);
  weights[0] = 3e30F;
  std::vector<std::int8_t> q(32);
  EXPECT_EQ(quantise_int8_group(weights, q), 65504.0F);
  EXPECT_EQ(q[0], 127);
  EXPECT_EQ(std::fabs(quantise_int4_group(weights, q)), 65504.0F);
  EXPECT_EQ(q[0], -8);
}

TEST(Quantise, ZerosAndWeightsThatAreNoNumbers) {
  std::vector<float> weights(40, 0.0F);
  std::vector<std::int8_t> q(40), multipliers(2);
  EXPECT_EQ(quantise_int8(weights, q), 0);
  EXPECT_EQ(quantise_int4(weights, q, multipliers), 0);
  EXPECT_EQ(quantise_int8_group(weights, q), 0);
  EXPECT_EQ(quantise_int4_group(weights, q), 0);
  weights[7] = std::numeric_limits<float>::infinity();
  EXPECT_TRUE(std::isnan(quantise_int8(weights, q)));
  EXPECT_TRUE(std::isnan(quantise_int4(weights, q, multipliers)));
  EXPECT_TRUE(std::isnan(quantise_int8_group(weights, q)));
  EXPECT_TRUE(std::isnan(quantise_int4_group(weights, q)));
}

// Whole numbers do not depend on who adds them up: each level must give the portable one's results to the
// last bit; with groups, whose sums are floats, those that have fused multiplication and addition.
TEST(Products, IntegersAgreeAtEveryLevel) {
  for (const Compute type :
       {Compute::int8, Compute::int4, Compute::int8_groups, Compute::int6_groups, Compute::int4_groups}) {
    for (const std::int64_t in : {5, 64, 100, 576}) {
      for (const std::int64_t out : {1, 16, 50, 150}) {
        const Tensor weight = make_tensor(DType::f32, {out, in}, normals(3, out * in));
        const std::vector<LinearPart> parts = {{&weight, nullptr}};
        const PackedMatrix packed = pack_matrix(parts, false, type);
        const std::int64_t rows = 37, padded_rows = 64, stride = packed.padded_in * 16;
        AlignedBuffer values(static_cast<std::size_t>(4 * stride));
        auto scales = normals(9, padded_rows * packed.groups());  // of rows, or of groups
        std::vector<std::int32_t> sums(static_cast<std::size_t>(padded_rows * packed.groups()));
        const auto x = normals(4, rows * in);
        for (std::int64_t r = 0; r < rows; ++r) {
          std::vector<std::int8_t> row(static_cast<std::size_t>(packed.padded_in));
          scales[static_cast<std::size_t>(r)] =
              quantise_activations({x.data() + r * in, static_cast<std::size_t>(in)},
                                   std::span(row).first(static_cast<std::size_t>(in)));
          for (std::int64_t i = 0; i < packed.padded_in; ++i)
            values.as<std::int8_t>()[tiled_offset(stride, r, i)] = row[static_cast<std::size_t>(i)];
          for (std::int64_t g = 0; g < packed.groups(); ++g)
            sums[static_cast<std::size_t>(group_offset(packed.groups(), r, g))] =
                std::accumulate(row.begin() + g * 32, row.begin() + (g + 1) * 32, 0);
        }
        const Activations activations = {values.as<std::byte>(), stride, scales.data(), sums.data(), nullptr};
        AlignedBuffer scratch(static_cast<std::size_t>(product_scratch_bytes(packed)));
        std::vector<float> expected;
        for (const Isa level : machine_levels()) {
          if (level == Isa::portable && packed.grouped()) continue;
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
