#include "depth/tie.h"

#include <gtest/gtest.h>

#include <cmath>
#include <vector>

#include "base/error.h"

namespace fathom {
namespace {

Matrix product(const LowRank& pair) { return multiply(pair.b, pair.a); }

Matrix minus(Matrix x, const Matrix& y) {
  add_scaled(y, -1, x);
  return x;
}

/// E[x xᵀ] of inputs that are far from white: direction i has deviation 1 / (1 + i).
Matrix moments(std::int64_t width, Random& random) {
  const Matrix mix = gaussian(width, width, random);
  Matrix scaled = mix;
  for (std::int64_t i = 0; i < width; ++i) {
    for (std::int64_t j = 0; j < width; ++j) scaled.row(i)[j] /= static_cast<float>(1 + j);
  }
  Matrix result = multiply(scaled, Transpose::no, scaled, Transpose::yes);
  for (std::int64_t i = 0; i < width; ++i) result.row(i)[i] += 1e-3F;
  return result;
}

struct Problem {
  std::vector<Matrix> weights;
  InputStatistics inputs;
};

Problem random_problem(std::int64_t out, std::int64_t in, int depths, Random& random) {
  Problem problem;
  std::vector<Matrix> all;
  for (int l = 0; l < depths; ++l) {
    problem.weights.push_back(gaussian(out, in, random));
    all.push_back(moments(in, random));
  }
  problem.inputs = input_statistics(std::move(all));
  return problem;
}

/// sum_l E|(W_l - shared - B_l A_l) x_l|²
double weighted_error(const Problem& problem, const TiedMatrix& tied) {
  double sum = 0;
  for (std::size_t l = 0; l < problem.weights.size(); ++l) {
    const Matrix missing = minus(minus(problem.weights[l], tied.shared), product(tied.own[l]));
    sum += dot(multiply(missing, problem.inputs.moments[l]), missing);
  }
  return sum;
}

TEST(TruncatedSvd, IsTheBestOfItsRank) {
  Random random(1);
  for (const auto& [rows, cols] : {std::pair<std::int64_t, std::int64_t>{7, 13}, {13, 7}, {9, 9}, {1, 5}}) {
    const Matrix x = gaussian(rows, cols, random);
    const std::int64_t full = std::min(rows, cols);
    EXPECT_LT(norm(minus(x, product(truncated_svd(x, full)))), 1e-4);
    double last = norm(x);
    for (std::int64_t rank = 1; rank <= full; ++rank) {
      const LowRank pair = truncated_svd(x, rank);
      const double error = norm(minus(x, product(pair)));
      EXPECT_LT(error, last);
      last = error;
      // Eckart and Young: what is left is orthogonal to what was taken.
      EXPECT_NEAR(dot(minus(x, product(pair)), product(pair)), 0, 1e-3);
      double length = 0;
      for (std::int64_t j = 0; j < cols; ++j) length += std::pow(pair.a.row(rank - 1)[j], 2);
      EXPECT_NEAR(length, 1, 1e-4);
    }
  }
}

TEST(Orthonormalise, CompletesADeficientSpan) {
  Matrix x(6, 3);
  for (std::int64_t i = 0; i < 6; ++i) x.row(i)[0] = x.row(i)[1] = 1;
  orthonormalise(x);
  const Matrix gram = multiply(x, Transpose::yes, x, Transpose::no);
  for (std::int64_t i = 0; i < 3; ++i) {
    for (std::int64_t j = 0; j < 3; ++j) EXPECT_NEAR(gram.row(i)[j], i == j ? 1 : 0, 1e-5);
  }
}

TEST(InputStatistics, SharesSumToOne) {
  Random random(2);
  const Problem problem = random_problem(3, 11, 3, random);
  Matrix sum(11, 11);
  for (const Matrix& share : problem.inputs.shares) add_scaled(share, 1, sum);
  for (std::int64_t i = 0; i < 11; ++i) {
    for (std::int64_t j = 0; j < 11; ++j) EXPECT_NEAR(sum.row(i)[j], i == j ? 1 : 0, 1e-3);
  }
  EXPECT_THROW(input_statistics({Matrix(4, 4)}), Error);  // zero: not positive definite
}

TEST(TieCalibrated, RankZeroIsTheWeightedLeastSquares) {
  Random random(3);
  const Problem problem = random_problem(5, 8, 2, random);
  const TiedMatrix tied = tie_calibrated(problem.weights, problem.inputs, 0, 8, random);
  const double least = weighted_error(problem, tied);
  for (int i = 0; i < 20; ++i) {  // a minimum: every step away is worse
    TiedMatrix moved = tied;
    add_scaled(gaussian(5, 8, random), 0.05F, moved.shared);
    EXPECT_GT(weighted_error(problem, moved), least);
  }
}

TEST(TieCalibrated, RoundsImproveAndBeatThePlainSvd) {
  for (const auto& [out, in] : {std::pair<std::int64_t, std::int64_t>{17, 31}, {31, 17}, {24, 24}}) {
    Random random(4);
    const Problem problem = random_problem(out, in, 3, random);
    double last = weighted_error(problem, relax_by_svd(mean(problem.weights), problem.weights, 5, random));
    for (const std::int64_t rounds : {0, 2, 8}) {
      Random same(5);
      const double error =
          weighted_error(problem, tie_calibrated(problem.weights, problem.inputs, 5, rounds, same));
      EXPECT_LT(error, last) << out << "x" << in << " after " << rounds;
      last = error;
    }
  }
}

TEST(TieCalibrated, FullRankIsExact) {
  Random random(6);
  for (const auto& [out, in] : {std::pair<std::int64_t, std::int64_t>{6, 10}, {10, 6}, {1, 4}}) {
    const Problem problem = random_problem(out, in, 2, random);
    const TiedMatrix tied = tie_calibrated(problem.weights, problem.inputs, 99, 8, random);
    for (const double error : relative_errors(problem.weights, tied, problem.inputs.moments))
      EXPECT_LT(error, 1e-5);
  }
}

TEST(RelaxBySvd, ADepthThatMissesNothingCanStillMove) {
  Random random(7);
  const std::vector<Matrix> weights{gaussian(4, 6, random), gaussian(4, 6, random)};
  const TiedMatrix tied = relax_by_svd(weights[0], weights, 2, random);
  EXPECT_GT(norm(tied.own[0].a), 0);
  EXPECT_EQ(norm(tied.own[0].b), 0);
  EXPECT_GT(norm(tied.own[1].b), 0);
}

}  // namespace
}  // namespace fathom
