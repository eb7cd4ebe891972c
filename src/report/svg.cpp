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

std::vector<std::string> names_of(const std::vector<Series>& series) {
  std::vector<std::string> names;
  names.reserve(series.size());
  for (const Series& one : series) names.push_back(one.name);
  return names;
}

/// "name, x_label 3: 0.25".
std::string tooltip_of(const Series& series, const std::string& x_label, std::size_t point) {
  return fmt::format("{}, {} {}: {}", series.name, x_label, number_text(series.x[point]),
                     number_text(series.y[point]));
}

/// The colours' meaning, right of the heat map.
void draw_colour_scale(Canvas& canvas, Range values) {
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
  Range values;
  for (const Series& one : series)
    for (const double y : one.y) values.include(y);
  return !values.empty && values.least > 0 && values.most / values.least > 100;
}

}  // namespace

std::string svg_heat_map(const std::string& title, const std::string& x_label, const std::string& y_label,
                         const std::vector<std::vector<double>>& rows, std::int64_t first_row) {
  Range values;
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
  Range x_range, y_range;
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
  canvas.legend(names_of(series));
  if (empty) canvas.no_data();
  return canvas.str();
}

std::string svg_lines(const std::string& title, const std::string& x_label, const std::string& y_label,
                      const std::vector<Series>& series, Scale scale) {
  const bool logarithm = use_logarithm(scale, series);
  const auto drawn = [&](const Series& one, std::size_t i) {
    return std::isfinite(one.x[i]) && std::isfinite(one.y[i]) && (!logarithm || one.y[i] > 0);
  };
  Range x_range, y_range;
  for (const Series& one : series) {
    for (std::size_t i = 0; i < points_of(one); ++i) {
      if (!drawn(one, i)) continue;
      x_range.include(one.x[i]);
      y_range.include(one.y[i]);
    }
  }
  Canvas canvas(title, chart_height, chart_plot);
  const Box& plot = canvas.plot();
  const Axis x(x_range, plot.left, plot.right), y(y_range, plot.bottom, plot.top, logarithm);
  canvas.y_axis(y, y.ticks(5), logarithm ? y_label + " (log scale)" : y_label, true);
  canvas.x_axis(x, x.ticks(8), x_label);
  for (std::size_t s = 0; s < series.size(); ++s) {
    // Points get dots and tooltips while they are far enough apart to be met with a mouse.
    const bool dots = points_of(series[s]) <= 80;
    std::string path;
    bool broken = true;
    for (std::size_t i = 0; i < points_of(series[s]); ++i) {
      const bool here = drawn(series[s], i);
      if (here)
        path += fmt::format("{}{:.2f} {:.2f}", broken ? "M" : "L", x.pixel(series[s].x[i]),
                            y.pixel(series[s].y[i]));
      broken = !here;
    }
    if (!path.empty()) canvas.path(path, "line " + series_class(s));
    for (std::size_t i = 0; dots && i < points_of(series[s]); ++i) {
      if (!drawn(series[s], i)) continue;
      canvas.dot(x.pixel(series[s].x[i]), y.pixel(series[s].y[i]), 3, "fill " + series_class(s),
                 tooltip_of(series[s], x_label, i));
    }
  }
  canvas.legend(names_of(series));
  if (y_range.empty) canvas.no_data();
  return canvas.str();
}

}  // namespace fathom
