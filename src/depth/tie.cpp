#include "depth/tie.h"

#include <algorithm>
#include <cmath>
#include <utility>

#include "base/interrupt.h"

namespace fathom {
namespace {

LowRank zero_pair(std::int64_t out, std::int64_t in, std::int64_t rank, Random& random) {
  LowRank pair{Matrix(out, rank), gaussian(rank, in, random)};
  const float deviation = 1.0F / std::sqrt(static_cast<float>(in));
  for (float& value : pair.a.values) value *= deviation;
  return pair;
}

Matrix difference(const Matrix& x, const Matrix& y) {
  Matrix result = x;
  add_scaled(y, -1, result);
  return result;
}

/// The first columns of x.
Matrix first_columns(const Matrix& x, std::int64_t count) {
  Matrix result(x.rows, count);
  for (std::int64_t i = 0; i < x.rows; ++i) std::copy_n(x.row(i), count, result.row(i));
  return result;
}

/// Moves the size of A's rows into B, as a plain SVD has it: A's rows are of length one.
void normalise(LowRank& pair) {
  for (std::int64_t r = 0; r < pair.rank(); ++r) {
    double squares = 0;
    for (std::int64_t j = 0; j < pair.a.cols; ++j) squares += std::pow(pair.a.row(r)[j], 2);
    if (squares == 0) continue;
    const auto length = static_cast<float>(std::sqrt(squares));
    for (std::int64_t j = 0; j < pair.a.cols; ++j) pair.a.row(r)[j] /= length;
    for (std::int64_t i = 0; i < pair.b.rows; ++i) pair.b.row(i)[r] *= length;
  }
}

Matrix identity(std::int64_t size) {
  Matrix result(size, size);
  for (std::int64_t i = 0; i < size; ++i) result.row(i)[i] = 1;
  return result;
}

/// The best pair of `rank` for x under the moments, U Uᵀ x, found by `steps` of subspace iteration from
/// `basis` [out, a few more than rank], which is left at the Ritz vectors for the next call.
LowRank weighted_pair(const Matrix& x, const Matrix& moments, std::int64_t rank, int steps, Matrix& basis) {
  for (int step = 0; step < steps; ++step) {
    basis = multiply(x, multiply(moments, multiply(x, Transpose::yes, basis, Transpose::no)));
    orthonormalise(basis);
  }
  const Matrix image = multiply(x, Transpose::yes, basis, Transpose::no);  // [in, columns of basis]
  std::vector<float> ritz_values;
  const Matrix rotation =
      eigenvectors(multiply(image, Transpose::yes, multiply(moments, image), Transpose::no), ritz_values);
  basis = multiply(basis, rotation);
  LowRank pair{first_columns(basis, rank), Matrix()};
  pair.a = multiply(pair.b, Transpose::yes, x, Transpose::no);
  return pair;
}

}  // namespace

TiedMatrix relax_by_svd(Matrix shared, std::span<const Matrix> weights, std::int64_t rank, Random& random) {
  TiedMatrix tied{std::move(shared), {}};
  const std::int64_t out = tied.shared.rows, in = tied.shared.cols;
  rank = std::min({rank, out, in});
  for (const Matrix& weight : weights) {
    const Matrix missing = difference(weight, tied.shared);
    tied.own.push_back(norm(missing) > 0 ? truncated_svd(missing, rank) : zero_pair(out, in, rank, random));
  }
  return tied;
}

TiedMatrix relax_by_zero(Matrix shared, std::size_t depths, std::int64_t rank, Random& random) {
  TiedMatrix tied{std::move(shared), {}};
  const std::int64_t out = tied.shared.rows, in = tied.shared.cols;
  for (std::size_t l = 0; l < depths; ++l) {
    tied.own.push_back(zero_pair(out, in, std::min({rank, out, in}), random));
  }
  return tied;
}

InputStatistics input_statistics(std::vector<Matrix> moments) {
  InputStatistics inputs{std::move(moments), {}};
  Matrix sum(inputs.moments.front().rows, inputs.moments.front().cols);
  for (const Matrix& moment : inputs.moments) add_scaled(moment, 1, sum);
  for (const Matrix& moment : inputs.moments) inputs.shares.push_back(divide(moment, sum));
  return inputs;
}

TiedMatrix tie_calibrated(std::span<const Matrix> weights, const InputStatistics& inputs, std::int64_t rank,
                          std::int64_t rounds, Random& random) {
  const std::int64_t out = weights[0].rows, in = weights[0].cols, full = std::min(in, out);
  rank = std::min(rank, full);
  Matrix mean(out, in);  // the shared matrix as long as nothing is taken off the weights
  for (std::size_t l = 0; l < weights.size(); ++l) {
    multiply(weights[l], Transpose::no, inputs.shares[l], Transpose::no, 1, 1, mean);
  }
  TiedMatrix tied{mean, std::vector<LowRank>(weights.size(), LowRank{Matrix(out, 0), Matrix(0, in)})};
  if (rank == 0) return tied;
  if (rank == full) {  // nothing to find: the pair is what is missing, beside an identity
    for (std::size_t l = 0; l < weights.size(); ++l) {
      Matrix missing = difference(weights[l], tied.shared);
      tied.own[l] =
          out <= in ? LowRank{identity(out), std::move(missing)} : LowRank{std::move(missing), identity(in)};
      normalise(tied.own[l]);
    }
    return tied;
  }

  // A few vectors more than wanted make the wanted ones converge sooner (Halko et al. 2011).
  const std::int64_t width = std::min(full, rank + std::max<std::int64_t>(8, rank / 8));
  std::vector<Matrix> bases;
  for (std::size_t l = 0; l < weights.size(); ++l) bases.push_back(gaussian(out, width, random));
  constexpr int first_steps = 4;
  Matrix last = tied.shared;  // the previous round's, before its extrapolation
  for (std::int64_t round = 0; round <= rounds; ++round) {
    check_interrupt();  // a large matrix takes seconds
    if (round > 0) {
      Matrix next = mean;
      for (std::size_t l = 0; l < weights.size(); ++l) {
        multiply(tied.own[l].b, Transpose::no, multiply(tied.own[l].a, inputs.shares[l]), Transpose::no, -1,
                 1, next);
      }
      tied.shared = next;
      if (round < rounds) {  // the last pairs are made for the shared matrix as it is
        const auto momentum = static_cast<float>(round - 1) / static_cast<float>(round + 2);
        add_scaled(difference(next, last), momentum, tied.shared);
      }
      last = std::move(next);
    }
    for (std::size_t l = 0; l < weights.size(); ++l) {
      tied.own[l] = weighted_pair(difference(weights[l], tied.shared), inputs.moments[l], rank,
                                  round == 0 ? first_steps : 1, bases[l]);
    }
  }
  for (LowRank& pair : tied.own) normalise(pair);
  return tied;
}

LowRank best_pair(const Matrix& x, const Matrix& moments, std::int64_t rank) {
  Random random(0);
  constexpr int steps = 8;
  Matrix basis = gaussian(x.rows, std::min(x.rows, rank + std::max<std::int64_t>(8, rank / 8)), random);
  LowRank pair = weighted_pair(x, moments, rank, steps, basis);
  normalise(pair);
  return pair;
}

std::vector<double> relative_errors(std::span<const Matrix> weights, const TiedMatrix& tied,
                                    std::span<const Matrix> moments) {
  std::vector<double> errors;
  for (std::size_t l = 0; l < weights.size(); ++l) {
    Matrix missing = difference(weights[l], tied.shared);
    multiply(tied.own[l].b, Transpose::no, tied.own[l].a, Transpose::no, -1, 1, missing);
    const auto size = [&](const Matrix& x) {
      return moments.empty() ? norm(x) : std::sqrt(std::max(0.0, dot(multiply(x, moments[l]), x)));
    };
    const double whole = size(weights[l]);
    errors.push_back(whole > 0 ? size(missing) / whole : 0);
  }
  return errors;
}

}  // namespace fathom
