// Help that fits a terminal: the library prints each description as one line, however long.
#pragma once

#include <CLI/CLI.hpp>
#include <string>

namespace fathom {

class WrappedHelp : public CLI::Formatter {
 public:
  std::string make_option_desc(const CLI::Option* option) const override {
    constexpr std::size_t line_width = 110;
    const std::size_t width = line_width - get_column_width();
    std::string text = CLI::Formatter::make_option_desc(option);
    for (std::size_t start = 0; text.size() - start > width;) {
      const std::size_t space = text.rfind(' ', start + width);
      if (space == std::string::npos || space <= start) break;
      text[space] = '\n';  // the library indents what follows
      start = space + 1;
    }
    return text;
  }
};

}  // namespace fathom
