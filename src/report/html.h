// One self-contained HTML page: no network, no scripts, pictures as inline SVG.
#pragma once

#include <string>
#include <utility>
#include <vector>

#include "report/svg.h"

namespace fathom {

/// For element content and attribute values: markup is escaped, control characters become U+FFFD.
std::string escape_html(const std::string& text);

/// A page of sections in the order they are added; readable on a phone and on paper, light and dark.
class HtmlPage {
 public:
  HtmlPage(std::string title, std::string lead);
  void heading(const std::string& text);
  void paragraph(const std::string& text);
  void picture(const std::string& svg, const std::string& caption);
  /// First row is the header, first column names the rows; cells that are numbers are aligned right.
  void table(const std::vector<std::vector<std::string>>& rows);
  /// Texts side by side, preformatted, each under its title.
  void columns(const std::vector<std::pair<std::string, std::string>>& texts);
  std::string str() const;

 private:
  std::string title_, lead_, body_;
};

}  // namespace fathom
