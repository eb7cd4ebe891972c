#include "base/json.h"

#include <algorithm>
#include <cmath>

#include "base/error.h"
#include "base/file.h"

namespace fathom {
namespace {

/// What stands there, short enough for a message.
std::string shown(const Json& value) {
  std::string text = value.dump(-1, ' ', true, Json::error_handler_t::replace);
  if (text.size() > 60) text = text.substr(0, 57) + "...";
  return text;
}

// Copying, comparing and printing a document recurse into it; real ones are under ten levels deep.
constexpr int most_levels = 200;

/// Brackets within strings do not count.
bool too_deep(std::string_view text) {
  int level = 0;
  bool in_string = false;
  for (std::size_t i = 0; i < text.size(); ++i) {
    const char c = text[i];
    if (c == '"') in_string = !in_string;
    if (in_string) {
      if (c == '\\') ++i;
    } else if (c == '[' || c == '{') {
      if (++level > most_levels) return true;
    } else if (c == ']' || c == '}') {
      --level;
    }
  }
  return false;
}

// An object that keeps its order is searched key by key, so reading one of n keys takes n * n / 2
// comparisons.
constexpr std::int64_t most_keys = 20'000;

/// Refuses an object of more keys than that while it is read.
nlohmann::detail::parser_callback_t<Json> key_limit(const std::string& where) {
  return [where, keys = std::vector<std::int64_t>(most_levels + 2)](
             int level, nlohmann::detail::parse_event_t event, const Json&) mutable {
    auto& count = keys[static_cast<std::size_t>(level)];
    if (event == nlohmann::detail::parse_event_t::object_start) keys[static_cast<std::size_t>(level) + 1] = 0;
    if (event == nlohmann::detail::parse_event_t::key && ++count > most_keys)
      fail("{}: an object of more than {} keys", where, most_keys);
    return true;
  };
}

}  // namespace

std::string parse_problem(const Json::exception& error) {
  std::string text = error.what();
  const std::size_t at = text.find(" at line ");
  if (at != std::string::npos) text = text.substr(at + 1);
  return text.size() > 200 ? text.substr(0, 200) + "..." : text;
}

Json parse_json(std::string_view text, const std::string& where) {
  if (too_deep(text)) fail("{}: nested deeper than {} levels", where, most_levels);
  try {
    return Json::parse(text, key_limit(where));
  } catch (const Json::exception& e) {
    fail("{}: not valid JSON: {}", where, parse_problem(e));
  }
}

Json read_json(const std::filesystem::path& path, std::size_t limit) {
  return parse_json(read_file(path, limit), path.string());
}

std::string differences(const Json& found, const Json& expected, const std::string& prefix) {
  std::string result;
  for (const auto& [key, value] : expected.items()) {
    const Json other = found.is_object() && found.contains(key) ? found[key] : Json();
    if (other == value) continue;
    if (value.is_object()) {
      result += differences(other, value, prefix + key + ".");
    } else {
      result += fmt::format("{}{}{} (was {}, is {})", result.empty() ? "" : ", ", prefix, key, other.dump(),
                            value.dump());
    }
  }
  return result;
}

JsonObject::JsonObject(const Json& value, std::string where, std::string prefix)
    : value_(&value), where_(std::move(where)), prefix_(std::move(prefix)) {
  if (!value.is_object()) {
    fail("{}: {} is {}, expected an object", where_,
         prefix_.empty() ? "the content" : "field '" + prefix_ + "'", shown(value));
  }
}

std::string JsonObject::field(const std::string& key) const {
  return fmt::format("{}: field '{}{}{}'", where_, prefix_, prefix_.empty() ? "" : ".", key);
}

bool JsonObject::has(const std::string& key) const {
  const auto found = value_->find(key);
  return found != value_->end() && !found->is_null();
}

const Json& JsonObject::at(const std::string& key) const {
  const auto found = value_->find(key);
  if (found == value_->end()) fail("{} is missing", field(key));
  return *found;
}

std::int64_t JsonObject::integer(const std::string& key, std::int64_t least, std::int64_t most) const {
  const Json& value = at(key);
  // Some writers store counts as 576.0; a fraction is still an error.
  const bool whole = value.is_number_float() && std::abs(value.get<double>()) < 9e15 &&
                     value.get<double>() == std::floor(value.get<double>());
  const bool too_large = value.is_number_unsigned() && value.get<std::uint64_t>() > std::uint64_t{1} << 62;
  if ((!value.is_number_integer() && !whole) || too_large) {
    fail("{} is {}, expected a whole number from {} to {}", field(key), shown(value), least, most);
  }
  const auto number = whole ? static_cast<std::int64_t>(value.get<double>()) : value.get<std::int64_t>();
  if (number < least || number > most)
    fail("{} is {}, expected a whole number from {} to {}", field(key), number, least, most);
  return number;
}

std::int64_t JsonObject::integer_or(const std::string& key, std::int64_t fallback, std::int64_t least,
                                    std::int64_t most) const {
  return has(key) ? integer(key, least, most) : fallback;
}

double JsonObject::number(const std::string& key) const {
  const Json& value = at(key);
  if (!value.is_number() || !std::isfinite(value.get<double>()))
    fail("{} is {}, expected a number", field(key), shown(value));
  return value.get<double>();
}

double JsonObject::number_or(const std::string& key, double fallback) const {
  return has(key) ? number(key) : fallback;
}

bool JsonObject::boolean_or(const std::string& key, bool fallback) const {
  if (!has(key)) return fallback;
  const Json& value = at(key);
  if (!value.is_boolean()) fail("{} is {}, expected true or false", field(key), shown(value));
  return value.get<bool>();
}

std::string JsonObject::string(const std::string& key) const {
  const Json& value = at(key);
  if (!value.is_string()) fail("{} is {}, expected a string", field(key), shown(value));
  return value.get<std::string>();
}

std::string JsonObject::string_or(const std::string& key, const std::string& fallback) const {
  return has(key) ? string(key) : fallback;
}

JsonObject JsonObject::object(const std::string& key) const {
  return {at(key), where_, prefix_.empty() ? key : prefix_ + "." + key};
}

std::optional<JsonObject> JsonObject::object_if(const std::string& key) const {
  if (!has(key)) return std::nullopt;
  return object(key);
}

const Json& JsonObject::array(const std::string& key, std::size_t most) const {
  const Json& value = at(key);
  if (!value.is_array()) fail("{} is {}, expected a list", field(key), shown(value));
  if (value.size() > most) fail("{} has {} entries, expected at most {}", field(key), value.size(), most);
  return value;
}

std::vector<JsonObject> JsonObject::objects(const std::string& key) const {
  const Json& values = array(key);
  std::vector<JsonObject> elements;
  for (std::size_t i = 0; i < values.size(); ++i)
    elements.emplace_back(values[i], where_,
                          fmt::format("{}{}{}[{}]", prefix_, prefix_.empty() ? "" : ".", key, i));
  return elements;
}

void for_each_json_line(std::string_view text, const std::string& file,
                        const std::function<bool(const JsonObject&)>& take) {
  std::int64_t line = 0;
  for (std::size_t start = 0; start < text.size();) {
    const std::size_t end = std::min(text.find('\n', start), text.size());
    const std::string_view content = text.substr(start, end - start);
    start = end + 1;
    ++line;
    if (content.find_first_not_of(" \t\r") == std::string_view::npos) continue;
    const std::string where = fmt::format("{}, line {}", file, line);
    const Json json = parse_json(content, where);
    if (!take(JsonObject(json, where))) return;
  }
}

}  // namespace fathom
