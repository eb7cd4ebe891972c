#include "depth/logistic_regression.h"

#include <algorithm>
#include <cmath>
#include <numeric>

namespace fathom {
namespace {

/// log(1 + exp(x)).
double softplus(double x) { return std::max(x, 0.0) + std::log1p(std::exp(-std::abs(x))); }

double logit(const LinearClassifier& map, const float* row) {
  return std::inner_product(map.weight.begin(), map.weight.end(), row, double{map.bias});
}

/// With the penalty, whose factor of each weight is `penalty`.
double penalised_loss(const LinearClassifier& map, const Matrix& rows, const std::vector<bool>& labels,
                      const std::vector<double>& penalty) {
  double loss = map.loss(rows, labels);
  for (std::size_t i = 0; i < penalty.size(); ++i)
    loss += penalty[i] * double{map.weight[i]} * map.weight[i] / 2;
  return loss;
}

}  // namespace

double LinearClassifier::probability(std::span<const float> row) const {
  return 1 / (1 + std::exp(-logit(*this, row.data())));
}

double LinearClassifier::loss(const Matrix& rows, const std::vector<bool>& labels) const {
  double sum = 0;
  for (std::int64_t r = 0; r < rows.rows; ++r) {
    const double z = logit(*this, rows.row(r));
    sum += softplus(labels[static_cast<std::size_t>(r)] ? -z : z);
  }
  return sum / static_cast<double>(rows.rows);
}

LinearClassifier logistic_regression(const Matrix& rows, const std::vector<bool>& labels, double ridge,
                                     LinearClassifier start) {
  const std::int64_t width = rows.cols;
  const auto count = static_cast<double>(rows.rows);
  std::vector<double> penalty(static_cast<std::size_t>(width));
  for (std::int64_t r = 0; r < rows.rows; ++r)
    for (std::int64_t i = 0; i < width; ++i)
      penalty[static_cast<std::size_t>(i)] += ridge * double{rows.row(r)[i]} * rows.row(r)[i] / count;

  LinearClassifier map = std::move(start);
  map.weight.resize(static_cast<std::size_t>(width));
  double loss = penalised_loss(map, rows, labels, penalty);
  constexpr int most_steps = 30;
  for (int step = 0; step < most_steps; ++step) {
    // Of rows (x, 1), each times the root of p (1 - p): the Hessian is the sum of their outer products.
    Matrix weighted(rows.rows, width + 1), gradient(1, width + 1);
    for (std::int64_t r = 0; r < rows.rows; ++r) {
      const float* const x = rows.row(r);
      const double p = map.probability({x, static_cast<std::size_t>(width)});
      const double slope = (p - (labels[static_cast<std::size_t>(r)] ? 1 : 0)) / count;
      const auto root = static_cast<float>(std::sqrt(p * (1 - p) / count));
      for (std::int64_t i = 0; i < width; ++i) {
        weighted.row(r)[i] = root * x[i];
        gradient.values[static_cast<std::size_t>(i)] += static_cast<float>(slope) * x[i];
      }
      weighted.row(r)[width] = root;
      gradient.values.back() += static_cast<float>(slope);
    }
    Matrix hessian = multiply(weighted, Transpose::yes, weighted, Transpose::no);
    for (std::int64_t i = 0; i < width; ++i) {
      const auto column = static_cast<std::size_t>(i);
      hessian.row(i)[i] += static_cast<float>(penalty[column]) + 1e-9F;
      gradient.values[column] += static_cast<float>(penalty[column]) * map.weight[column];
    }
    hessian.row(width)[width] += 1e-9F;  // where all labels are alike nothing else holds the bias
    const Matrix change = divide(gradient, hessian);
    double part = 1, before = loss;
    for (LinearClassifier next;; part /= 2) {
      next = map;
      for (std::size_t i = 0; i < next.weight.size(); ++i)
        next.weight[i] -= static_cast<float>(part) * change.values[i];
      next.bias -= static_cast<float>(part) * change.values.back();
      const double now = penalised_loss(next, rows, labels, penalty);
      if (now < loss) {
        map = std::move(next);
        loss = now;
        break;
      }
      if (part < 1e-3) return map;  // float32 has no more to say
    }
    if (before - loss < 1e-7 * before) break;
  }
  return map;
}

double area_under_curve(std::span<const double> probabilities, const std::vector<bool>& labels) {
  std::vector<std::size_t> order(labels.size());
  std::iota(order.begin(), order.end(), std::size_t{0});
  std::ranges::sort(order, {}, [&](std::size_t i) { return probabilities[i]; });
  double below = 0, pairs = 0;  // rows outside the class so far, and pairs in the right order
  for (std::size_t first = 0; first < order.size();) {
    std::size_t end = first;
    double inside = 0, outside = 0;
    for (; end < order.size() && probabilities[order[end]] == probabilities[order[first]]; ++end)
      (labels[order[end]] ? inside : outside) += 1;
    pairs += inside * (below + outside / 2);
    below += outside;
    first = end;
  }
  const double all = below * (static_cast<double>(labels.size()) - below);
  return all > 0 ? pairs / all : 0.5;
}

}  // namespace fathom
