#include "cli/config_file.h"

#include <fmt/format.h>
#include <fmt/ranges.h>
#include <toml++/toml.h>

#include <algorithm>
#include <vector>

#include "base/error.h"
#include "base/json.h"
#include "cli/nearest.h"

namespace fathom {
namespace {

std::string key_of(const CLI::Option& option) {
  return option.get_lnames().empty() ? CLI::detail::to_lower(option.get_name()) : option.get_lnames().front();
}

[[noreturn]] void fail_unknown(const std::string& where, const std::string& key,
                               const std::vector<CLI::Option*>& options) {
  std::vector<std::string> known;
  known.reserve(options.size());
  for (const CLI::Option* option : options) known.push_back(key_of(*option));
  fail_usage("{}: unknown key '{}'{} (--print-config lists the keys that there are)", where, key,
             did_you_mean(key, known));
}

/// What the command line would say.
std::string argument(const toml::node& value, const std::string& where) {
  if (const auto* text = value.as_string()) return text->get();
  if (const auto* number = value.as_integer()) return fmt::format("{}", number->get());
  if (const auto* number = value.as_floating_point()) return fmt::format("{}", number->get());
  if (const auto* truth = value.as_boolean()) return truth->get() ? "true" : "false";
  fail_usage("{}: expected a string, a number, true or false, or a list of these", where);
}

std::vector<std::string> arguments(const toml::node& value, const std::string& where) {
  const toml::array* list = value.as_array();
  if (list == nullptr) return {argument(value, where)};
  std::vector<std::string> result;
  for (const toml::node& element : *list) result.push_back(argument(element, where));
  return result;
}

toml::table parsed(const std::filesystem::path& file) {
  try {
    return toml::parse_file(file.string());
  } catch (const toml::parse_error& error) {
    const auto line = error.source().begin.line;
    fail_usage("{}{}: {}", file.string(), line > 0 ? fmt::format(" line {}", line) : "", error.description());
  }
}

std::vector<CLI::Option*> configurable(CLI::App& verb) {
  return verb.get_options([](const CLI::Option* option) { return option->get_configurable(); });
}

/// A value of the command line as TOML: ".5" is a number there, and none here.
std::string as_toml(const CLI::Option& option, const std::string& value) {
  const std::string type = option.get_type_name();
  const bool is_number = type.starts_with("INT") || type.starts_with("UINT") || type.starts_with("FLOAT");
  double number = 0;
  if (option.get_expected_max() == 0) return value;
  if (!is_number || !CLI::detail::lexical_cast(value, number)) {
    return Json(value).dump();  // JSON's escapes are TOML's
  }
  return value.find_first_not_of("0123456789") == std::string::npos && !value.starts_with('0')
             ? value
             : fmt::format("{}", number);
}

/// Gives the verb the options that it does not have yet.
void apply(CLI::App& verb, const toml::table& table, const std::string& origin) {
  const std::vector<CLI::Option*> options = configurable(verb);
  for (const auto& [name, value] : table) {
    const std::string key(name.str());
    const std::string where = fmt::format("{} line {}", origin, value.source().begin.line);
    const auto found = std::ranges::find(options, key, [](const CLI::Option* o) { return key_of(*o); });
    if (found == options.end()) fail_unknown(where, key, options);
    CLI::Option& option = **found;
    if (option.count() > 0) continue;  // the command line goes first
    const std::vector<std::string> given = arguments(value, fmt::format("{}: key '{}'", where, key));
    if (option.get_expected_max() == 0 && given == std::vector<std::string>{"false"}) continue;  // a flag
    try {
      option.add_result(given);
      option.run_callback();
    } catch (const CLI::ParseError& error) {
      fail_usage("{}: key '{}': {}", where, key, error.what());
    }
  }
}

}  // namespace

void read_config(CLI::App& verb, const std::filesystem::path& file) {
  apply(verb, parsed(file), file.string());
}

void read_settings(CLI::App& verb, const std::string& text, const std::string& origin) {
  apply(verb, toml::parse(text), origin);
}

std::string written_config(const CLI::App& verb) {
  std::string text = fmt::format("# fathom {} --config FILE\n", verb.get_name());
  const auto is_configurable = [](const CLI::Option* option) { return option->get_configurable(); };
  for (const CLI::Option* option : verb.get_options(is_configurable)) {
    text += fmt::format("\n# {}\n", option->get_description());
    const std::string key = key_of(*option);
    std::vector<std::string> values;
    for (const std::string& value : option->results()) values.push_back(as_toml(*option, value));
    if (values.empty()) {
      const bool flag = option->get_expected_max() == 0;
      text += fmt::format("# {} = {}\n", key, flag ? "false" : option->get_default_str());
    } else if (option->get_expected_max() > 1) {
      text += fmt::format("{} = [{}]\n", key, fmt::join(values, ", "));
    } else {
      text += fmt::format("{} = {}\n", key, values.back());
    }
  }
  return text;
}

void make_absolute(CLI::Option& option) {
  std::vector<std::string> paths = option.results();
  if (paths.empty()) return;
  for (std::string& path : paths) path = std::filesystem::absolute(path).lexically_normal().string();
  option.clear();
  option.add_result(paths);
}

}  // namespace fathom
