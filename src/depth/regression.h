// Linear maps fitted to what they should give, in closed form, from sums over the rows of a text.
#pragma once

#include <cstdint>
#include <span>

#include "depth/linear_algebra.h"

namespace fathom {

/// Weighted ridge regression: the W [out, in] that minimises
///   sum_i w_i |y_i - W x_i|² + ridge · mean diagonal of (sum_i w_i x_i x_iᵀ) · |W|².
/// The last rows can be held out, to find the ridge by.
class Regression {
 public:
  Regression(std::int64_t in, std::int64_t out);

  /// Adds rows x [rows, in], y [rows, out], weights [rows]; to those held out, if so.
  void add(std::span<const float> x, std::span<const float> y, std::span<const float> weights, bool held_out);

  struct Fit {
    Matrix weight;           ///< [out, in], from all rows
    Matrix gram;             ///< [in, in], sum of w x xᵀ of all rows
    double ridge = 0;        ///< the one that was best on the rows held out
    double unexplained = 0;  ///< there: the weighted squared error over that of W = 0
  };
  /// Tries `ridges` on the rows held out and fits all rows with the best; where nothing was held out, with
  /// the first. Throws Error when a value is not finite.
  Fit fit(std::span<const double> ridges);

 private:
  struct Sums {
    Matrix gram;      // [in, in], the lower triangle
    Matrix products;  // [out, in]
    double squares = 0;
  };
  Sums fitted_, held_out_;
  std::vector<float> x_, y_;  // rows times the roots of their weights
};

}  // namespace fathom
