// Linear maps fitted to what they should give, in closed form, from sums over the rows of a text.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "depth/linear_algebra.h"

namespace fathom {

/// What ridge regressions of y on x need to know of rows that are weighted.
class RegressionSums {
 public:
  RegressionSums(std::int64_t in, std::int64_t out);

  /// Adds rows x [rows, in], y [rows, out], weights [rows].
  void add(std::span<const float> x, std::span<const float> y, std::span<const float> weights);
  void add(const RegressionSums& other);

  bool empty() const { return rows_ == 0; }
  std::vector<float> sizes() const;  ///< sum of w x², an input each
  Matrix moments() const;            ///< [in, in], sum of w x xᵀ

  /// The map [out, in] that minimises sum w |y - W x|² + sum_i penalty_i |column i of W|². Throws Error when
  /// a sum is not finite.
  Matrix solve(std::span<const float> penalty) const;
  /// Of a map: sum w |y - W x|² over sum w |y|².
  double unexplained(const Matrix& map) const;

 private:
  std::int64_t rows_ = 0;
  Matrix moments_, products_;  // the lower triangle; [out, in], sum of w y xᵀ
  double squares_ = 0;         // sum of w |y|²
  std::vector<float> x_, y_;   // rows times the roots of their weights
};

/// What a ridge of this strength adds to each input.
using Penalty = std::vector<float> (*)(std::span<const float> sizes, double ridge);
/// As much to each: the strength times the mean of their sizes.
std::vector<float> even_penalty(std::span<const float> sizes, double ridge);
/// To each the strength times its own size, and nothing to the last, a constant.
std::vector<float> own_penalty_but_last(std::span<const float> sizes, double ridge);

struct RidgeFit {
  Matrix map;  ///< [out, in]
  double ridge = 0;
  double unexplained = 0;  ///< of the rows that were held out
};
/// Of these strengths the one of which the map fitted to `fitted` leaves least of `held_out`; the first where
/// nothing was held out.
RidgeFit fit_ridge(const RegressionSums& fitted, const RegressionSums& held_out,
                   std::span<const double> ridges, Penalty penalty);

}  // namespace fathom
