#include "depth/regression.h"

#include <gtest/gtest.h>

#include <vector>

#include "base/random.h"

namespace fathom {
namespace {

std::vector<float> normal(std::size_t count, std::uint64_t seed) {
  Random random(seed);
  std::vector<float> values(count);
  for (float& value : values) value = static_cast<float>(random.normal());
  return values;
}

TEST(Regression, FindsTheMapWhateverTheWeights) {
  const std::int64_t rows = 200, in = 7, out = 3;
  const Matrix map = [&] {
    Random random(3);
    return gaussian(out, in, random);
  }();
  const std::vector<float> x = normal(rows * in, 1);
  std::vector<float> y(rows * out), weights(rows);
  for (std::int64_t i = 0; i < rows; ++i) {
    weights[static_cast<std::size_t>(i)] = 0.1F + static_cast<float>(i % 5);
    for (std::int64_t o = 0; o < out; ++o)
      for (std::int64_t j = 0; j < in; ++j)
        y[static_cast<std::size_t>(i * out + o)] += map.row(o)[j] * x[static_cast<std::size_t>(i * in + j)];
  }
  RegressionSums sums(in, out);
  sums.add(x, y, weights);
  const Matrix found = sums.solve(even_penalty(sums.sizes(), 1e-9));
  for (std::size_t i = 0; i < found.values.size(); ++i) EXPECT_NEAR(found.values[i], map.values[i], 1e-4F);
}

/// A row of weight nine counts as nine rows.
TEST(Regression, AWeightIsThatManyRows) {
  const std::vector<float> x = normal(40, 1), y = normal(20, 2);
  RegressionSums weighted(2, 1), repeated(2, 1);
  std::vector<float> weights(20, 1);
  weights[3] = 9;
  weighted.add(x, y, weights);
  const std::vector<float> ones(1, 1);
  for (std::size_t i = 0; i < 20; ++i)
    for (int times = 0; times < (i == 3 ? 9 : 1); ++times)
      repeated.add(std::span(x).subspan(2 * i, 2), std::span(y).subspan(i, 1), ones);
  const std::vector<float> penalty = even_penalty(weighted.sizes(), 1e-2);
  const Matrix a = weighted.solve(penalty), b = repeated.solve(penalty);
  for (std::size_t i = 0; i < 2; ++i) EXPECT_NEAR(a.values[i], b.values[i], 1e-5F);
}

/// Noise that has nothing to do with the inputs wants a strong ridge, what follows from them a weak one.
TEST(Regression, HeldOutRowsChooseTheRidge) {
  const std::int64_t rows = 60, in = 40;
  const std::vector<float> x = normal(2 * rows * in, 1), noise = normal(2 * rows, 2);
  const std::vector<float> weights(rows, 1);
  constexpr double ridges[] = {1e-4, 1e2};
  std::vector<float> sums(2 * rows);
  for (std::size_t i = 0; i < sums.size(); ++i)
    for (std::int64_t j = 0; j < in; ++j) sums[i] += x[i * in + static_cast<std::size_t>(j)];
  const auto fitted_to = [&](const std::vector<float>& y) {
    RegressionSums fitted(in, 1), held_out(in, 1);
    fitted.add(std::span(x).first(rows * in), std::span(y).first(rows), weights);
    held_out.add(std::span(x).last(rows * in), std::span(y).last(rows), weights);
    return fit_ridge(fitted, held_out, ridges, even_penalty);
  };
  EXPECT_EQ(fitted_to(noise).ridge, 1e2);
  const RidgeFit fit = fitted_to(sums);
  EXPECT_EQ(fit.ridge, 1e-4);
  EXPECT_LT(fit.unexplained, 0.01);
}

/// What an input costs is in proportion to its own size, and the constant is free.
TEST(Regression, PenaltiesAreEvenOrEachInputsOwn) {
  const std::vector<float> sizes{4, 8, 12};
  EXPECT_EQ(even_penalty(sizes, 0.5), (std::vector<float>{4, 4, 4}));
  EXPECT_EQ(own_penalty_but_last(sizes, 0.5), (std::vector<float>{2, 4, 0}));
}

}  // namespace
}  // namespace fathom
