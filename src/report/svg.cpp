#include "report/svg.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cmath>

#include "report/canvas.h"

namespace fathom {
namespace {

constexpr double chart_height = 320;
constexpr Box chart_plot = {72, 52, 740, 270};

/// Matplotlib's viridis at equal steps; between them colours are mixed. Even in lightness, and readable for
/// the colour-blind.
std::string viridis(double part) {
  static constexpr std::array<std::array<double, 3>, 9> stops = {{{68, 1, 84},
                                                                  {71, 44, 122},
                                                                  {59, 81, 139},
                                                                  {44, 113, 142},
                                                                  {33, 144, 141},
                                                                  {39, 173, 129},
                                                                  {92, 200, 99},
                                                                  {170, 220, 50},
                                                                  {253, 231, 37}}};
  const double at = std::clamp(part, 0.0, 1.0) * (stops.size() - 1);
  const auto below = std::min(static_cast<std::size_t>(at), stops.size() - 2);
  std::array<int, 3> rgb{};
  for (std::size_t c = 0; c < 3; ++c) {
    const double mixed =
        stops[below][c] + (at - static_cast<double>(below)) * (stops[below + 1][c] - stops[below][c]);
    rgb[c] = static_cast<int>(std::lround(mixed));
  }
  return fmt::format("#{:02x}{:02x}{:02x}", rgb[0], rgb[1], rgb[2]);
}

/// Every whole number in the range, or every 2nd, 5th, 10th, ... so that there are `most` at most.
std::vector<double> whole_ticks(double first, double last, double most) {
  double stride = 1;
  for (int i = 0; (last - first) / stride > most; ++i) stride *= i % 3 == 1 ? 2.5 : 2;
  const double start = std::ceil(first / stride) * stride;
  const double steps = std::floor((last - start) / stride);  // `most` at most; not a number for absurd ranges
  std::vector<double> ticks;
  for (int i = 0; i <= steps; ++i) ticks.push_back(start + i * stride);
  return ticks;
}

std::size_t points_of(const Series& series) { return std::min(series.x.size(), series.y.size()); }

/// One series needs no legend.
std::vector<LegendEntry> legend_of(const std::vector<Series>& series) {
  std::vector<LegendEntry> legend;
  if (series.size() < 2) return legend;
  for (const Series& one : series) legend.push_back({one.name, series_class(legend.size())});
  return legend;
}

/// "name, x_label 3: 0.25".
std::string tooltip_of(const Series& series, const std::string& x_label, std::size_t point) {
  return fmt::format("{}, {} {}: {}", series.name, x_label, number_text(series.x[point]),
                     number_text(series.y[point]));
}

/// The colours' meaning, right of the heat map.
void draw_colour_scale(Canvas& canvas, AxisRange values) {
  const Box box = {canvas.plot().right + 24, canvas.plot().top, canvas.plot().right + 38,
                   canvas.plot().bottom};
  const Axis axis(values, box.bottom, box.top);
  constexpr int steps = 48;
  const double step = box.height() / steps;
  for (int i = 0; i < steps; ++i) {
    const double bottom = box.bottom - i * step;
    // Half a pixel of overlap hides the seams of antialiasing.
    canvas.rect({box.left, bottom - step - (i + 1 < steps ? 0.5 : 0), box.right, bottom},
                fmt::format("fill=\"{}\"", viridis((i + 0.5) / steps)));
  }
  for (const double tick : axis.ticks(5)) {
    canvas.line(box.right, axis.pixel(tick), box.right + 4, axis.pixel(tick), "axis");
    canvas.text(box.right + 8, axis.pixel(tick) + 4, number_text(tick), "tick", "start");
  }
}

bool use_logarithm(Scale scale, const std::vector<Series>& series) {
  if (scale != Scale::automatic) return scale == Scale::logarithmic;
  AxisRange values;
  for (const Series& one : series)
    for (const double y : one.y) values.include(y);
  return !values.empty && values.least > 0 && values.most / values.least > 100;
}

/// Axes and lines. Colours go by the place of a series in the list.
class LineChart {
 public:
  LineChart(const std::string& title, const std::string& x_label, const std::string& y_label,
            const std::vector<Series>& series, Scale scale)
      : series_(series),
        x_label_(x_label),
        logarithm_(use_logarithm(scale, series)),
        canvas_(title, chart_height, chart_plot),
        x_(range_of(&Series::x), canvas_.plot().left, canvas_.plot().right),
        y_(range_of(&Series::y), canvas_.plot().bottom, canvas_.plot().top, logarithm_) {
    canvas_.y_axis(y_, y_.ticks(5), logarithm_ ? y_label + " (log scale)" : y_label, true);
    canvas_.x_axis(x_, x_.ticks(8), x_label);
  }

  /// `one` is a series of the list, or made of one; `kind` is its class of the style sheet.
  void line(const Series& one, const std::string& kind) {
    std::string path;
    bool broken = true;
    for (std::size_t i = 0; i < points_of(one); ++i) {
      const bool here = drawn(one, i);
      if (here)
        path += fmt::format("{}{:.2f} {:.2f}", broken ? "M" : "L", x_.pixel(one.x[i]), y_.pixel(one.y[i]));
      broken = !here;
    }
    if (!path.empty()) canvas_.path(path, kind);
  }

  void dots(const Series& one, const std::string& kind) {
    for (std::size_t i = 0; i < points_of(one); ++i) {
      if (!drawn(one, i)) continue;
      canvas_.dot(x_.pixel(one.x[i]), y_.pixel(one.y[i]), 3, kind, tooltip_of(one, x_label_, i));
    }
  }

  std::string str(const std::vector<LegendEntry>& legend) {
    canvas_.legend(legend);
    if (range_of(&Series::y).empty) canvas_.no_data();
    return canvas_.str();
  }

 private:
  bool drawn(const Series& one, std::size_t i) const {
    return std::isfinite(one.x[i]) && std::isfinite(one.y[i]) && (!logarithm_ || one.y[i] > 0);
  }

  AxisRange range_of(std::vector<double> Series::*values) const {
    AxisRange range;
    for (const Series& one : series_)
      for (std::size_t i = 0; i < points_of(one); ++i)
        if (drawn(one, i)) range.include((one.*values)[i]);
    return range;
  }

  const std::vector<Series>& series_;
  const std::string& x_label_;
  bool logarithm_;
  Canvas canvas_;
  Axis x_, y_;
};

/// How many points a mean goes over, an odd number: about a thirtieth of them.
std::size_t mean_window(const Series& series) { return points_of(series) / 60 * 2 + 1; }

/// The mean of each point and its neighbours in the window, as far as there are some. Where a value is
/// missing, so is the mean.
Series running_mean(const Series& series) {
  const std::size_t half = mean_window(series) / 2, points = points_of(series);
  Series mean{series.name, series.x, {}};
  for (std::size_t i = 0; i < points; ++i) {
    double sum = 0, count = 0;
    for (std::size_t j = i - std::min(i, half); j < std::min(points, i + half + 1); ++j) {
      if (!std::isfinite(series.y[j])) continue;
      sum += series.y[j];
      ++count;
    }
    mean.y.push_back(std::isfinite(series.y[i]) ? sum / count : series.y[i]);
  }
  return mean;
}

}  // namespace

std::string svg_heat_map(const std::string& title, const std::string& x_label, const std::string& y_label,
                         const std::vector<std::vector<double>>& rows, std::int64_t first_row) {
  AxisRange values;
  std::size_t columns = 1;
  for (const auto& row : rows) {
    columns = std::max(columns, row.size());
    for (const double value : row) values.include(value);
  }
  const auto row_count = static_cast<double>(std::max<std::size_t>(rows.size(), 1));
  Box plot = {72, 36, 660, 0};
  const double cell_width = plot.width() / static_cast<double>(columns);
  const double cell_height = std::max(std::min({cell_width, 440 / row_count, 28.0}), 80 / row_count);
  plot.bottom = plot.top + cell_height * row_count;
  Canvas canvas(title, plot.bottom + 50, plot);
  const Axis colour(values, 0, 1);
  const auto row_label = [&](std::size_t r) { return first_row + static_cast<std::int64_t>(r); };
  for (std::size_t r = 0; r < rows.size(); ++r) {
    const auto least = std::ranges::min_element(
        rows[r], [](double a, double b) { return std::isfinite(a) && (!std::isfinite(b) || a < b); });
    const double bottom = plot.bottom - static_cast<double>(r) * cell_height;
    for (std::size_t c = 0; c < rows[r].size(); ++c) {
      const double value = rows[r][c];
      if (!std::isfinite(value)) continue;
      const double left = plot.left + static_cast<double>(c) * cell_width;
      canvas.rect({left, bottom - cell_height, left + cell_width, bottom},
                  fmt::format("fill=\"{}\" class=\"cell\"", viridis(colour.pixel(value))),
                  fmt::format("{} {}, {} {}: {}", x_label, c, y_label, row_label(r), number_text(value)));
      if (rows[r].size() > 1 && c == static_cast<std::size_t>(least - rows[r].begin()))
        canvas.dot(left + cell_width / 2, bottom - cell_height / 2, std::min(cell_width, cell_height) / 6,
                   "dot");
    }
  }
  const auto last_column = static_cast<double>(columns) - 1, first = static_cast<double>(first_row);
  const Axis x({-0.5, last_column + 0.5, false}, plot.left, plot.right);
  const Axis y({first - 0.5, first + row_count - 0.5, false}, plot.bottom, plot.top);
  canvas.x_axis(x, whole_ticks(0, last_column, 20), x_label);
  canvas.y_axis(y, whole_ticks(first, first + row_count - 1, plot.height() / 18), y_label, false);
  if (values.empty) {
    canvas.no_data();
  } else {
    draw_colour_scale(canvas, values);
    canvas.dot(plot.right - 128, 14, 3.5, "key");
    canvas.text(plot.right - 118, 18, "smallest of its row", "tick", "start");
  }
  return canvas.str();
}

std::string svg_bars(const std::string& title, const std::string& x_label, const std::string& y_label,
                     const std::vector<Series>& series) {
  AxisRange x_range, y_range;
  for (const Series& one : series) {
    for (std::size_t i = 0; i < points_of(one); ++i) {
      x_range.include(one.x[i]);
      y_range.include(one.y[i]);
    }
  }
  Canvas canvas(title, chart_height, chart_plot);
  const Box& plot = canvas.plot();
  const bool empty = y_range.empty;
  y_range.include(0);
  const Axis x({x_range.least - 0.5, x_range.most + 0.5, false}, plot.left, plot.right);
  const Axis y(y_range, plot.bottom, plot.top);
  canvas.y_axis(y, y.ticks(5), y_label, true);
  const double group = plot.width() / (x_range.most - x_range.least + 1) * 0.8;
  const double bar = group / static_cast<double>(std::max<std::size_t>(series.size(), 1));
  for (std::size_t s = 0; s < series.size(); ++s) {
    for (std::size_t i = 0; i < points_of(series[s]); ++i) {
      const double value = series[s].y[i];
      if (!std::isfinite(value) || !std::isfinite(series[s].x[i])) continue;
      const double left = x.pixel(series[s].x[i]) - group / 2 + static_cast<double>(s) * bar;
      canvas.rect({left, y.pixel(std::max(value, 0.0)), left + bar * 0.94, y.pixel(std::min(value, 0.0))},
                  fmt::format("rx=\"1\" class=\"fill {}\"", series_class(s)),
                  tooltip_of(series[s], x_label, i));
    }
  }
  canvas.line(plot.left, y.pixel(0), plot.right, y.pixel(0), "axis");
  canvas.x_axis(x, whole_ticks(x_range.least, x_range.most, 20), x_label);
  canvas.legend(legend_of(series));
  if (empty) canvas.no_data();
  return canvas.str();
}

std::string svg_lines(const std::string& title, const std::string& x_label, const std::string& y_label,
                      const std::vector<Series>& series, Scale scale) {
  LineChart chart(title, x_label, y_label, series, scale);
  for (std::size_t s = 0; s < series.size(); ++s) {
    chart.line(series[s], "line " + series_class(s));
    // Points get dots and tooltips while they are far enough apart to be met with a mouse.
    if (points_of(series[s]) <= 80) chart.dots(series[s], "fill " + series_class(s));
  }
  return chart.str(legend_of(series));
}

std::string svg_noisy_lines(const std::string& title, const std::string& x_label, const std::string& y_label,
                            const std::vector<Series>& series) {
  const auto is_short = [](const Series& one) { return mean_window(one) == 1; };
  if (std::ranges::all_of(series, is_short)) return svg_lines(title, x_label, y_label, series);
  LineChart chart(title, x_label, y_label, series, Scale::automatic);
  std::vector<LegendEntry> legend;
  for (std::size_t s = 0; s < series.size(); ++s) chart.line(series[s], "line faint " + series_class(s));
  for (std::size_t s = 0; s < series.size(); ++s) {
    chart.line(running_mean(series[s]), "line " + series_class(s));
    legend.push_back(
        {fmt::format("{}: mean of {} steps", series[s].name, mean_window(series[s])), series_class(s)});
  }
  legend.push_back({"single steps", "faint " + series_class(0)});
  return chart.str(legend);
}

}  // namespace fathom
