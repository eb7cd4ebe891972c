#include "report/axis.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>

namespace fathom {

void AxisRange::include(double value) {
  if (!std::isfinite(value)) return;
  least = empty ? value : std::min(least, value);
  most = empty ? value : std::max(most, value);
  empty = false;
}

Axis::Axis(AxisRange range, double from, double to, bool logarithmic)
    : least_(range.least), most_(range.most), from_(from), to_(to), logarithmic_(logarithmic) {
  if (range.empty) {
    least_ = logarithmic ? 1 : 0;
    most_ = logarithmic ? 10 : 1;
  } else if (!(most_ > least_)) {
    const double margin = least_ == 0 ? 1 : std::abs(least_) / 10;
    least_ -= margin;
    most_ += margin;
  }
}

double Axis::pixel(double value) const {
  // Logarithms and halves one by one, so that no range that double can hold overflows.
  const double part = logarithmic_
                          ? (std::log(value) - std::log(least_)) / (std::log(most_) - std::log(least_))
                          : (value / 2 - least_ / 2) / (most_ / 2 - least_ / 2);
  return from_ + part * (to_ - from_);
}

std::vector<double> Axis::ticks(int about) const {
  if (logarithmic_) return logarithmic_ticks(about);
  const double rough = most_ / about - least_ / about;
  const double power = std::pow(10, std::floor(std::log10(rough)));
  double step = power;
  for (const double factor : {2.0, 5.0, 10.0})
    if (step < rough) step = factor * power;
  std::vector<double> values;
  // The limit on their number guards against steps below the resolution of double.
  const double first = std::ceil(least_ / step - 1e-9);
  for (int i = 0; i <= 3 * about; ++i) {
    const double value = (first + i) * step;
    if (value > most_ + step * 1e-9) break;
    values.push_back(value == 0 ? 0 : value);  // not -0
  }
  return values;
}

std::vector<double> Axis::logarithmic_ticks(int about) const {
  const int low = static_cast<int>(std::floor(std::log10(least_)));
  const int high = static_cast<int>(std::ceil(std::log10(most_)));
  const int stride = std::max(1, (high - low) / about);
  std::vector<double> values;
  for (int exponent = low; exponent <= high; exponent += stride) {
    for (const double digit : {1.0, 2.0, 5.0}) {
      const double value = digit * std::pow(10, exponent);
      const bool wanted = digit == 1 || high - low <= 2;
      if (wanted && value >= least_ * (1 - 1e-9) && value <= most_ * (1 + 1e-9)) values.push_back(value);
    }
  }
  return values;
}

std::string number_text(double value) {
  const double size = std::abs(value);
  if (size >= 1e3 && size < 1e12) {
    const auto [unit, letter] = size >= 1e9   ? std::pair(1e9, 'G')
                                : size >= 1e6 ? std::pair(1e6, 'M')
                                              : std::pair(1e3, 'k');
    return fmt::format("{:.4g}{}", value / unit, letter);
  }
  return fmt::format("{:.4g}", value);
}

}  // namespace fathom
