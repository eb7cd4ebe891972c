// Packing from memory against pack_matrix, and products of matrices against plain loops.
#include "kernels/multiply.h"

#include <fmt/format.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <span>
#include <vector>

#include "base/random.h"
#include "formats/tensor.h"
#include "kernels/bf16.h"
#include "kernels/repack.h"

namespace fathom {
namespace {

std::vector<float> normals(Random& random, std::int64_t count) {
  std::vector<float> values(static_cast<std::size_t>(count));
  for (float& v : values) v = static_cast<float>(random.normal());
  return values;
}

std::vector<std::uint16_t> halves(std::span<const float> values) {
  std::vector<std::uint16_t> result;
  for (const float value : values) result.push_back(to_bf16(value));
  return result;
}

std::vector<float> transposed(std::span<const float> values, std::int64_t rows, std::int64_t columns) {
  std::vector<float> result(values.size());
  for (std::int64_t r = 0; r < rows; ++r)
    for (std::int64_t c = 0; c < columns; ++c) result[c * rows + r] = values[r * columns + c];
  return result;
}

// What pack_matrix makes of the same values.
void expect_packed(const PackedMatrix& got, const std::vector<float>& values, std::int64_t out,
                   std::int64_t in) {
  const Tensor weight = make_tensor(DType::f32, {out, in}, values);
  const LinearPart part = {&weight};
  const PackedMatrix expected = pack_matrix({&part, 1}, false, Compute::bf16);
  ASSERT_EQ(got.out, out);
  ASSERT_EQ(got.in, in);
  ASSERT_EQ(got.padded_in, expected.padded_in);
  const auto bytes = static_cast<std::size_t>(expected.panels() * expected.panel_bytes());
  EXPECT_TRUE(std::equal(expected.panel(0), expected.panel(0) + bytes, got.panel(0)))
      << fmt::format("{} outputs of {} inputs", out, in);
}

TEST(Repack, AsPackMatrixWhateverTheShapeAndPart) {
  Random random(3);
  PackedMatrix packed;  // the same memory again and again: what was in it must not shine through
  for (const std::int64_t columns : {576, 1, 7, 16, 40, 97}) {
    for (const std::int64_t rows : {300, 1, 15, 33, 64}) {
      const std::int64_t first = rows / 3, stride = columns + 5;
      std::vector<float> apart = normals(random, rows * stride), values;
      apart[0] = std::numeric_limits<float>::quiet_NaN();
      for (std::int64_t r = 0; r < rows; ++r)
        values.insert(values.end(), apart.begin() + r * stride, apart.begin() + r * stride + columns);
      const auto rounded = halves(apart);
      for (const bool bf16 : {false, true}) {
        const auto part = [&](std::int64_t row, std::int64_t count) -> DenseMatrix {
          if (bf16) return {Compute::bf16, rounded.data() + row * stride, count, columns, stride};
          return {Compute::f32, apart.data() + row * stride, count, columns, stride};
        };
        const std::vector<DenseMatrix> parts = {part(0, first), part(first, rows - first)};
        pack_rows(parts, packed);
        expect_packed(packed, values, rows, columns);
        pack_columns(parts, packed);
        expect_packed(packed, transposed(values, rows, columns), columns, rows);
      }
      const std::int64_t apart_in_turn = rows / 2 * 2 + 4;
      std::vector<std::uint16_t> turned(static_cast<std::size_t>(columns * apart_in_turn), 9);
      transpose({Compute::bf16, rounded.data(), rows, columns, stride}, turned.data(), apart_in_turn);
      for (std::int64_t c = 0; c < columns; ++c) {
        for (std::int64_t r = 0; r < rows; ++r)
          ASSERT_EQ(turned[c * apart_in_turn + r], rounded[r * stride + c]) << r << " " << c;
        EXPECT_EQ(turned[c * apart_in_turn + rows], 9) << "what lies between rows is left alone";
      }
    }
  }
}

// A weight of two parts, the second of which changes, in parts of its own that are cut where its columns end.
TEST(Repack, PartsFollowTheirMatrix) {
  Random random(4);
  for (const std::int64_t columns : {1, 40, 96, 97}) {
    const std::int64_t above = 64, below = 96, stride = columns + 3;
    auto values = normals(random, (above + below) * stride);
    const std::vector<DenseMatrix> matrices = {
        {Compute::f32, values.data(), above, columns, stride},
        {Compute::f32, values.data() + above * stride, below, columns, stride}};
    PackedMatrix rows, turned, expected;
    pack_rows(matrices, rows);
    pack_columns(matrices, turned);
    for (std::int64_t i = above * stride; i < std::ssize(values); ++i)
      values[i] = static_cast<float>(random.normal());
    for (std::int64_t row = 0; row < below; row += 32) {
      for (std::int64_t column = 0; column < columns; column += 64) {
        const MatrixPart part = {row, column, 32, std::min(columns - column, std::int64_t{64})};
        repack_rows(matrices[1], part, above, rows);
        repack_columns(matrices[1], part, above, turned);
      }
    }
    pack_rows(matrices, expected);
    EXPECT_TRUE(std::ranges::equal(rows.bytes(), expected.bytes())) << columns;
    pack_columns(matrices, expected);
    EXPECT_TRUE(std::ranges::equal(turned.bytes(), expected.bytes())) << columns;
  }
}

TEST(Multiply, AddsUpItsResultsSquares) {
  Random random(6);
  for (const std::int64_t rows : {1, 33, 600}) {
    for (const std::int64_t out : {7, 50, 96}) {
      const std::int64_t in = 40;
      const auto x = halves(normals(random, rows * in));
      const auto w = normals(random, out * in);
      const DenseMatrix weight = {Compute::f32, w.data(), out, in, in};
      PackedMatrix packed;
      pack_rows({&weight, 1}, packed);
      for (const bool accumulate : {false, true}) {
        auto y = normals(random, rows * out);
        std::vector<float> squares(static_cast<std::size_t>((rows + 31) / 32 * 16), 0.25F);
        multiply(packed, rows, {x.data(), in},
                 {.y = reinterpret_cast<std::byte*>(y.data()),
                  .stride = out,
                  .accumulate = accumulate,
                  .squares = squares.data()});
        for (std::int64_t first = 0; first < rows; first += 32) {
          double expected = 16 * 0.25, sum = 0;
          for (std::int64_t i = first * out; i < std::min(first + 32, rows) * out; ++i)
            expected += double{y[i]} * y[i];
          for (std::int64_t i = 0; i < 16; ++i) sum += squares[first / 2 + i];
          EXPECT_NEAR(sum / expected, 1, 1e-5)
              << fmt::format("{} outputs, rows from {} of {}", out, first, rows);
        }
      }
    }
  }
}

TEST(Multiply, AsPlainLoops) {
  Random random(5);
  for (const std::int64_t in : {1, 40, 96, 2080}) {
    for (const std::int64_t rows : {1, 33, 600}) {
      const std::int64_t out = 50, stride = in + 3;
      const auto x = normals(random, rows * stride), w = normals(random, out * in);
      const auto half_x = halves(x), half_w = halves(w);
      PackedMatrix packed;
      const DenseMatrix weight = {Compute::f32, w.data(), out, in, in};
      pack_rows({&weight, 1}, packed);
      auto y = normals(random, rows * out);
      const auto before = y;
      multiply(packed, rows, {half_x.data(), stride},
               {.y = reinterpret_cast<std::byte*>(y.data()), .stride = out, .accumulate = true});
      std::vector<std::uint16_t> rounded(static_cast<std::size_t>(rows * 16));
      multiply(packed, {1, 2}, rows, {half_x.data(), stride},
               {.y = reinterpret_cast<std::byte*>(rounded.data()),
                .type = Compute::bf16,
                .stride = 16,
                .first_output = 16});
      double worst = 0, worst_rounded = 0;
      for (std::int64_t r = 0; r < rows; ++r) {
        for (std::int64_t o = 0; o < out; ++o) {
          double sum = 0;
          for (std::int64_t i = 0; i < in; ++i)
            sum += double{from_bf16(half_x[r * stride + i])} * from_bf16(half_w[o * in + i]);
          worst = std::max(worst, std::abs(y[r * out + o] - before[r * out + o] - sum));
          if (o / 16 == 1)
            worst_rounded = std::max(
                worst_rounded, std::abs(from_bf16(rounded[r * 16 + o - 16]) - sum) / (1 + std::abs(sum)));
        }
      }
      EXPECT_LT(worst, 1e-5 * std::sqrt(in) + 1e-6) << fmt::format("{} rows of {}", rows, in);
      EXPECT_LT(worst_rounded, 0.005) << fmt::format("{} rows of {}", rows, in);
    }
  }
}

}  // namespace
}  // namespace fathom
