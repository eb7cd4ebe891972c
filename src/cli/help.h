// Help that fits a terminal: the library prints each description as one line, however long, and every option
// there is.
#pragma once

#include <CLI/CLI.hpp>
#include <string>
#include <utility>
#include <vector>

namespace fathom {

/// Groups of options with names of their own are explained by --help-all, where a verb has that; --help names
/// their options only.
class WrappedHelp : public CLI::Formatter {
 public:
  std::string make_help(const CLI::App* app, std::string name, CLI::AppFormatMode mode) const override {
    all_ = mode == CLI::AppFormatMode::All;
    return CLI::Formatter::make_help(app, std::move(name), mode);
  }

  std::string make_group(std::string group, bool is_positional,
                         std::vector<const CLI::Option*> options) const override {
    if (all_ || is_positional || group == "Options")
      return CLI::Formatter::make_group(group, is_positional, options);
    std::string result = group + " (--help-all):";
    std::size_t column = result.size();
    for (const CLI::Option* option : options) {
      const std::string name = option->get_name();
      const bool fits = column + 1 + name.size() <= line_width;
      result += (fits ? " " : "\n  ") + name;
      column = (fits ? column + 1 : 2) + name.size();
    }
    return result;  // the library ends the line
  }

  std::string make_option_desc(const CLI::Option* option) const override {
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

 private:
  static constexpr std::size_t line_width = 110;
  mutable bool all_ = false;  // the library asks for groups without saying for which help
};

}  // namespace fathom
