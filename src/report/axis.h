// One axis of a picture: the range of its values, where they lie in pixels, and where its ticks are.
#pragma once

#include <string>
#include <vector>

namespace fathom {

/// Smallest and largest of the finite values that were included.
struct AxisRange {
  double least = 0, most = 0;
  bool empty = true;
  void include(double value);
};

class Axis {
 public:
  /// Maps `range` to [from, to] in pixels (to < from for an axis that points up). A range of one value, or of
  /// none, is widened.
  Axis(AxisRange range, double from, double to, bool logarithmic = false);

  double pixel(double value) const;
  /// Some `about` round values inside the range: 1, 2 or 5 times a power of ten, or only these powers on a
  /// logarithmic axis that spans several.
  std::vector<double> ticks(int about) const;
  double least() const { return least_; }
  double most() const { return most_; }

 private:
  std::vector<double> logarithmic_ticks(int about) const;

  double least_, most_, from_, to_;
  bool logarithmic_;
};

/// "0.25", "20k", "1.5M", "3e+09": what stands at a tick or in a tooltip, 4 digits at most.
std::string number_text(double value);

}  // namespace fathom
