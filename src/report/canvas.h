// What all pictures share: the <svg> element with its title, the frame with axes and labels, the legend.
#pragma once

#include <string>
#include <vector>

#include "report/axis.h"

namespace fathom {

/// Pixels inside the picture's coordinate system; the page scales it to its width.
struct Box {
  double left = 0, top = 0, right = 0, bottom = 0;
  double width() const { return right - left; }
  double height() const { return bottom - top; }
};

/// A name beside a square that looks as `kind`, classes of the style sheet, says.
struct LegendEntry {
  std::string name, kind;
};

class Canvas {
 public:
  static constexpr double width = 760;

  /// `plot` is where the values go; around it there must be room for ticks and labels.
  Canvas(const std::string& title, double height, Box plot);

  const Box& plot() const { return plot_; }
  /// Marks: `attributes` and `kind` (classes of the style sheet) say how they look; a tooltip may be empty.
  void rect(const Box& box, const std::string& attributes, const std::string& tooltip = "");
  void dot(double x, double y, double radius, const std::string& kind, const std::string& tooltip = "");
  void path(const std::string& data, const std::string& kind);
  void line(double x1, double y1, double x2, double y2, const std::string& kind);
  /// `kind` is a class of the style sheet; `anchor` is start, middle or end.
  void text(double x, double y, const std::string& content, const std::string& kind,
            const std::string& anchor);
  /// Ticks and labels; with `grid` a line across the plot at each tick.
  void x_axis(const Axis& axis, const std::vector<double>& ticks, const std::string& label);
  void y_axis(const Axis& axis, const std::vector<double>& ticks, const std::string& label, bool grid);
  /// Above the plot.
  void legend(const std::vector<LegendEntry>& entries);
  void no_data();
  std::string str() const;

 private:
  void mark(const std::string& element, const std::string& attributes, const std::string& tooltip);

  Box plot_;
  std::string svg_;
};

/// Class of series `i`: the style sheet has six colours, which repeat.
std::string series_class(std::size_t i);

}  // namespace fathom
