#include "depth/regression.h"

#include <cmath>
#include <numeric>
#include <utility>

#include "base/error.h"
#include "base/threads.h"

namespace fathom {
namespace {

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

RegressionSums::RegressionSums(std::int64_t in, std::int64_t out) : moments_(in, in), products_(out, in) {}

void RegressionSums::add(std::span<const float> x, std::span<const float> y, std::span<const float> weights) {
  if (weights.empty()) return;
  rows_ += std::ssize(weights);
  scale_rows(x, weights, x_);
  scale_rows(y, weights, y_);
  add_gram(std::ssize(weights), x_.data(), moments_);
  add_products(std::ssize(weights), y_.data(), x_.data(), products_);
  for (const float value : y_) squares_ += static_cast<double>(value) * static_cast<double>(value);
}

void RegressionSums::add(const RegressionSums& other) {
  rows_ += other.rows_;
  add_scaled(other.moments_, 1, moments_);
  add_scaled(other.products_, 1, products_);
  squares_ += other.squares_;
}

std::vector<float> RegressionSums::sizes() const {
  std::vector<float> diagonal;
  for (std::int64_t i = 0; i < moments_.rows; ++i) diagonal.push_back(moments_.row(i)[i]);
  return diagonal;
}

Matrix RegressionSums::moments() const {
  Matrix symmetric = moments_;
  for (std::int64_t i = 0; i < symmetric.rows; ++i)
    for (std::int64_t j = 0; j < i; ++j) symmetric.row(j)[i] = symmetric.row(i)[j];
  return symmetric;
}

Matrix RegressionSums::solve(std::span<const float> penalty) const {
  if (!std::isfinite(squares_))
    fail("a linear map cannot be fitted: hidden states are not finite numbers; is the model sound?");
  Matrix left = moments();
  for (std::int64_t i = 0; i < left.rows; ++i) left.row(i)[i] += penalty[static_cast<std::size_t>(i)];
  return divide(products_, left);
}

// |y - W x|² = |y|² - 2 <W, y xᵀ> + <W, W x xᵀ>
double RegressionSums::unexplained(const Matrix& map) const {
  if (squares_ == 0) return 0;
  return (squares_ - 2 * dot(map, products_) + dot(map, multiply(map, moments()))) / squares_;
}

std::vector<float> even_penalty(std::span<const float> sizes, double ridge) {
  const double sum = std::accumulate(sizes.begin(), sizes.end(), 0.0);
  return std::vector<float>(sizes.size(),
                            static_cast<float>(ridge * sum / static_cast<double>(sizes.size())));
}

std::vector<float> own_penalty_but_last(std::span<const float> sizes, double ridge) {
  std::vector<float> penalty(sizes.begin(), sizes.end());
  for (float& size : penalty) size *= static_cast<float>(ridge);
  penalty.back() = 0;
  return penalty;
}

RidgeFit fit_ridge(const RegressionSums& fitted, const RegressionSums& held_out,
                   std::span<const double> ridges, Penalty penalty) {
  RidgeFit best;
  for (const double ridge : held_out.empty() ? ridges.first(1) : ridges) {
    Matrix map = fitted.solve(penalty(fitted.sizes(), ridge));
    const double unexplained = held_out.unexplained(map);
    if (best.map.rows > 0 && !(unexplained < best.unexplained)) continue;
    best = {.map = std::move(map), .ridge = ridge, .unexplained = unexplained};
  }
  return best;
}

}  // namespace fathom
