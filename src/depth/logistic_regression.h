// Two classes told apart by one linear map.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "depth/linear_algebra.h"

namespace fathom {

/// The probability of a row x is sigmoid(weight x + bias).
struct LinearClassifier {
  std::vector<float> weight;  ///< [columns]
  float bias = 0;

  double probability(std::span<const float> row) const;
  /// Mean of -log p(label) over rows, in nats.
  double loss(const Matrix& rows, const std::vector<bool>& labels) const;
};

/// Least loss plus ridge / 2 times the sum of (weight * the column's root mean square)², by Newton's method
/// from `start` on. One label for each row; at least one row.
LinearClassifier logistic_regression(const Matrix& rows, const std::vector<bool>& labels, double ridge,
                                     LinearClassifier start);

/// How often a row of the class has a higher probability than one outside it (the area under the ROC curve;
/// equal ones count half); 0.5 where there is only one class.
double area_under_curve(std::span<const double> probabilities, const std::vector<bool>& labels);

}  // namespace fathom
