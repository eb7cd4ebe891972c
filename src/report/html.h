// One self-contained HTML page: no network, no scripts that fetch, pictures as inline SVG.
#pragma once

#include <string>
#include <vector>

namespace fathom {

std::string escape_html(const std::string& text);

struct Series {
  std::string name;
  std::vector<double> x, y;
};

/// Pictures: each returns an <svg> element with axes, ticks, labels and a title for screen readers.
/// `rows[n][l]`, ragged; NaN cells are left empty. Cells carry tooltips.
std::string svg_heat_map(const std::string& title, const std::string& x_label, const std::string& y_label,
                         const std::vector<std::vector<double>>& rows);
std::string svg_bars(const std::string& title, const std::string& x_label, const std::string& y_label,
                     const std::vector<Series>& series);
std::string svg_lines(const std::string& title, const std::string& x_label, const std::string& y_label,
                      const std::vector<Series>& series);

/// A page of sections in the order they are added; readable on a phone and on paper, light and dark.
class HtmlPage {
 public:
  HtmlPage(std::string title, std::string lead);
  void heading(const std::string& text);
  void paragraph(const std::string& text);
  void picture(const std::string& svg, const std::string& caption);
  /// First row is the header; cells that are numbers are aligned right.
  void table(const std::vector<std::vector<std::string>>& rows);
  /// Texts side by side, preformatted, each under its title.
  void columns(const std::vector<std::pair<std::string, std::string>>& texts);
  std::string str() const;

 private:
  std::string title_, lead_, body_;
};

}  // namespace fathom
