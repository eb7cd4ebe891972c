#include "depth/regression.h"

#include <cmath>
#include <utility>

#include "base/error.h"
#include "base/threads.h"

namespace fathom {
namespace {

void fill_upper(Matrix& symmetric) {
  for (std::int64_t i = 0; i < symmetric.rows; ++i)
    for (std::int64_t j = 0; j < i; ++j) symmetric.row(j)[i] = symmetric.row(i)[j];
}

double mean_diagonal(const Matrix& gram) {
  double sum = 0;
  for (std::int64_t i = 0; i < gram.rows; ++i) sum += static_cast<double>(gram.row(i)[i]);
  return sum / static_cast<double>(gram.rows);
}

Matrix solve(const Matrix& gram, const Matrix& products, double ridge) {
  Matrix left = gram;
  const auto more = static_cast<float>(ridge * mean_diagonal(gram));
  for (std::int64_t i = 0; i < left.rows; ++i) left.row(i)[i] += more;
  return divide(products, left);
}

void scale_rows(std::span<const float> from, std::span<const float> weights, std::vector<float>& to) {
  const std::size_t width = from.size() / weights.size();
  to.resize(from.size());
  parallel_for(std::ssize(weights), [&](std::int64_t row) {
    const float root = std::sqrt(weights[static_cast<std::size_t>(row)]);
    const std::size_t first = static_cast<std::size_t>(row) * width;
    for (std::size_t i = first; i < first + width; ++i) to[i] = root * from[i];
  });
}

}  // namespace

Regression::Regression(std::int64_t in, std::int64_t out)
    : fitted_{Matrix(in, in), Matrix(out, in)}, held_out_{Matrix(in, in), Matrix(out, in)} {}

void Regression::add(std::span<const float> x, std::span<const float> y, std::span<const float> weights,
                     bool held_out) {
  if (weights.empty()) return;
  scale_rows(x, weights, x_);
  scale_rows(y, weights, y_);
  Sums& sums = held_out ? held_out_ : fitted_;
  add_gram(std::ssize(weights), x_.data(), sums.gram);
  add_products(std::ssize(weights), y_.data(), x_.data(), sums.products);
  for (const float value : y_) sums.squares += static_cast<double>(value) * static_cast<double>(value);
}

Regression::Fit Regression::fit(std::span<const double> ridges) {
  if (!std::isfinite(fitted_.squares) || !std::isfinite(held_out_.squares))
    fail("a linear map cannot be fitted: hidden states are not finite numbers; is the model sound?");
  fill_upper(fitted_.gram);
  Fit best{.weight = Matrix(), .gram = Matrix(), .ridge = ridges.front(), .unexplained = 1};
  if (held_out_.squares > 0) {
    fill_upper(held_out_.gram);
    bool first = true;
    for (const double ridge : ridges) {
      const Matrix weight = solve(fitted_.gram, fitted_.products, ridge);
      // |y - W x|² = |y|² - 2 <W, y xᵀ> + <W, W x xᵀ>
      const double error = held_out_.squares - 2 * dot(weight, held_out_.products) +
                           dot(weight, multiply(weight, held_out_.gram));
      const double unexplained = error / held_out_.squares;
      if (first || unexplained < best.unexplained) {
        best.ridge = ridge;
        best.unexplained = unexplained;
      }
      first = false;
    }
    add_scaled(held_out_.gram, 1, fitted_.gram);
    add_scaled(held_out_.products, 1, fitted_.products);
  }
  best.weight = solve(fitted_.gram, fitted_.products, best.ridge);
  best.gram = std::move(fitted_.gram);
  return best;
}

}  // namespace fathom
