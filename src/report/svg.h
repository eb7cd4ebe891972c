// Pictures as inline <svg> elements: axes, ticks, labels, a title for screen readers, tooltips on the marks.
// Their colours are variables and classes of HtmlPage's style sheet, light and dark. Values that are not
// finite are left out; with no values at all the picture says so.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

namespace fathom {

/// Points (x[i], y[i]); the shorter of the two lists counts.
struct Series {
  std::string name;
  std::vector<double> x, y;
};

enum class Scale {
  automatic,  ///< logarithmic where all values are positive and the largest is over 100 times the smallest
  linear,
  logarithmic  ///< values that are not positive are left out
};

/// Rows of cells, ragged, from the bottom up: row i stands at y = first_row + i, its cell j at x = j. Colour
/// by value (viridis), with a scale beside it; the smallest cell of each row carries a dot.
std::string svg_heat_map(const std::string& title, const std::string& x_label, const std::string& y_label,
                         const std::vector<std::vector<double>>& rows, std::int64_t first_row = 1);

/// A group of bars, one a series, at each x of the first series, which are whole numbers.
std::string svg_bars(const std::string& title, const std::string& x_label, const std::string& y_label,
                     const std::vector<Series>& series);

/// A line a series, broken where a value is missing.
std::string svg_lines(const std::string& title, const std::string& x_label, const std::string& y_label,
                      const std::vector<Series>& series, Scale scale = Scale::automatic);

/// Lines that jump from point to point, such as a loss step by step: drawn faintly, and over each its running
/// mean, over about a thirtieth of its points. Lines of less than 60 points are drawn as by svg_lines.
std::string svg_noisy_lines(const std::string& title, const std::string& x_label, const std::string& y_label,
                            const std::vector<Series>& series);

}  // namespace fathom
