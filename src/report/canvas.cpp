#include "report/canvas.h"

#include <fmt/format.h>

#include <cmath>

#include "report/html.h"

namespace fathom {

std::string series_class(std::size_t i) { return fmt::format("s{}", i % 6); }

Canvas::Canvas(const std::string& title, double height, Box plot) : plot_(plot) {
  svg_ = fmt::format("<svg viewBox=\"0 0 {} {:.0f}\" role=\"img\" aria-label=\"{}\">\n<title>{}</title>\n",
                     width, height, escape_html(title), escape_html(title));
  text(plot.left, 18, title, "title", "start");
}

void Canvas::mark(const std::string& element, const std::string& attributes, const std::string& tooltip) {
  svg_ += tooltip.empty()
              ? fmt::format("<{} {} />\n", element, attributes)
              : fmt::format("<{0} {1}><title>{2}</title></{0}>\n", element, attributes, escape_html(tooltip));
}

void Canvas::rect(const Box& box, const std::string& attributes, const std::string& tooltip) {
  mark("rect",
       fmt::format("x=\"{:.2f}\" y=\"{:.2f}\" width=\"{:.2f}\" height=\"{:.2f}\" {}", box.left, box.top,
                   box.width(), box.height(), attributes),
       tooltip);
}

void Canvas::dot(double x, double y, double radius, const std::string& kind, const std::string& tooltip) {
  mark("circle", fmt::format("cx=\"{:.2f}\" cy=\"{:.2f}\" r=\"{:.2f}\" class=\"{}\"", x, y, radius, kind),
       tooltip);
}

void Canvas::path(const std::string& data, const std::string& kind) {
  mark("path", fmt::format("d=\"{}\" class=\"{}\"", data, kind), "");
}

void Canvas::line(double x1, double y1, double x2, double y2, const std::string& kind) {
  svg_ += fmt::format("<line x1=\"{:.2f}\" y1=\"{:.2f}\" x2=\"{:.2f}\" y2=\"{:.2f}\" class=\"{}\" />\n", x1,
                      y1, x2, y2, kind);
}

void Canvas::text(double x, double y, const std::string& content, const std::string& kind,
                  const std::string& anchor) {
  svg_ += fmt::format("<text x=\"{:.2f}\" y=\"{:.2f}\" class=\"{}\" text-anchor=\"{}\">{}</text>\n", x, y,
                      kind, anchor, escape_html(content));
}

void Canvas::x_axis(const Axis& axis, const std::vector<double>& ticks, const std::string& label) {
  line(plot_.left, plot_.bottom, plot_.right, plot_.bottom, "axis");
  for (const double tick : ticks) {
    const double x = axis.pixel(tick);
    line(x, plot_.bottom, x, plot_.bottom + 4, "axis");
    text(x, plot_.bottom + 18, number_text(tick), "tick", "middle");
  }
  text((plot_.left + plot_.right) / 2, plot_.bottom + 40, label, "label", "middle");
}

void Canvas::y_axis(const Axis& axis, const std::vector<double>& ticks, const std::string& label, bool grid) {
  for (const double tick : ticks) {
    const double y = axis.pixel(tick);
    if (grid) line(plot_.left, y, plot_.right, y, "grid");
    text(plot_.left - 8, y + 4, number_text(tick), "tick", "end");
  }
  const double x = plot_.left - 50, y = (plot_.top + plot_.bottom) / 2;
  svg_ += fmt::format(
      "<text x=\"{0:.2f}\" y=\"{1:.2f}\" class=\"label\" text-anchor=\"middle\" transform=\"rotate(-90 "
      "{0:.2f} "
      "{1:.2f})\">{2}</text>\n",
      x, y, escape_html(label));
}

void Canvas::legend(const std::vector<LegendEntry>& entries) {
  double x = plot_.left;
  for (const auto& [name, kind] : entries) {
    rect({x, 29, x + 11, 40}, fmt::format("rx=\"2\" class=\"fill {}\"", kind));
    text(x + 16, 39, name, "tick", "start");
    // Letters of a proportional font at 12 pixels are 6.5 wide on average.
    x += 36 + 6.5 * static_cast<double>(name.size());
  }
}

void Canvas::no_data() {
  text((plot_.left + plot_.right) / 2, (plot_.top + plot_.bottom) / 2, "no values", "label", "middle");
}

std::string Canvas::str() const { return svg_ + "</svg>\n"; }

}  // namespace fathom
