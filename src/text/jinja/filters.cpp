// Filters ("value | name(arguments)").
#include <algorithm>
#include <array>
#include <charconv>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <numeric>

#include "base/error.h"
#include "text/jinja/interpreter.h"
#include "text/jinja/text.h"
#include "text/unicode.h"

namespace fathom::jinja {
namespace {

using Kind = Sequence::Kind;

Value folded(const Value& value) { return value.is_string() ? Value(lower_case(*value.string())) : value; }

/// The attribute of each element that a filter looks at; the element itself without one.
std::vector<Value> keys_of(Call& c, const std::vector<Value>& items, std::size_t parameter) {
  std::vector<Value> keys;
  for (const Value& item : items) {
    if (!c.has(parameter)) {
      keys.push_back(item);
    } else if (c[parameter].is_string() && c[parameter].string()->find(',') != std::string::npos) {
      Sequence several;  // "age,name"
      for (const std::string& part : split(*c[parameter].string(), ",", -1, false))
        several.items.push_back(c.interpreter.path(item, part));
      keys.emplace_back(std::move(several));
    } else {
      keys.push_back(c.interpreter.path(item, c[parameter]));
    }
  }
  return keys;
}

Value sort_filter(Call& c) {
  std::vector<Value> items = elements(c.self, c.work);
  const std::vector<Value> keys = keys_of(c, items, 2);
  return Sequence(sorted(std::move(items), keys, c.truth(0, false), c.truth(1, false), c.work));
}

Value dictsort_filter(Call& c) {
  const Dict* dict = c.self.dict();
  if (dict == nullptr) fail("'dictsort' needs a dict, not '{}'", c.self.type_name());
  const std::string by = c.text(1, "key");
  if (by != "key" && by != "value") fail("'dictsort' sorts by 'key' or 'value', not '{}'", by);
  std::vector<Value> items, keys;
  for (const auto& [key, value] : dict->entries) {
    items.emplace_back(Sequence({key, value}, Kind::tuple));
    keys.push_back(by == "key" ? key : value);
  }
  return Sequence(sorted(std::move(items), keys, c.truth(2, false), c.truth(0, false), c.work));
}

Value unique_filter(Call& c) {
  const std::vector<Value> items = elements(c.self, c.work);
  const std::vector<Value> keys = keys_of(c, items, 1);
  Sequence result({}, Kind::generator);
  std::vector<Value> seen;
  for (std::size_t i = 0; i < items.size(); i++) {
    const Value key = c.truth(0, false) ? keys[i] : folded(keys[i]);
    c.work.spend_elements(seen.size());
    if (std::any_of(seen.begin(), seen.end(), [&](const Value& old) { return equal(old, key, c.work); }))
      continue;
    seen.push_back(key);
    result.items.push_back(items[i]);
  }
  return result;
}

template <bool largest>
Value extreme_filter(Call& c) {
  const std::vector<Value> items = elements(c.self, c.work);
  if (items.empty()) return Undefined{"the sequence is empty"};
  const std::vector<Value> keys = keys_of(c, items, 1);
  const auto key = [&](std::size_t i) { return c.truth(0, false) ? keys[i] : folded(keys[i]); };
  std::size_t best = 0;
  for (std::size_t i = 1; i < items.size(); i++) {
    const auto order = compare(key(i), key(best), c.work);
    if (order == (largest ? std::partial_ordering::greater : std::partial_ordering::less)) best = i;
  }
  return items[best];
}

Value sum_filter(Call& c) {
  const std::vector<Value> items = elements(c.self, c.work);
  Value total = c.bound[1] ? c[1] : Value(std::int64_t{0});
  for (const Value& value : keys_of(c, items, 0)) {
    if (value.is_string()) fail("'sum' cannot add strings");
    total = arithmetic("+", total, value, c.work);
  }
  return total;
}

Value join_filter(Call& c) {
  const std::string separator = c.text(0);
  const std::vector<Value> items = elements(c.self, c.work);
  std::string text;
  bool first = true;
  for (const Value& value : keys_of(c, items, 1)) {
    c.work.spend(separator.size());
    if (!std::exchange(first, false)) text += separator;
    text += to_text(value, c.work);
  }
  return text;
}

Value first_filter(Call& c) {
  const std::vector<Value> items = elements(c.self, c.work);
  return items.empty() ? Value(Undefined{"the sequence is empty"}) : items.front();
}

Value last_filter(Call& c) {
  if (c.self.sequence() != nullptr && c.self.sequence()->kind == Kind::generator)
    fail("'last' needs a list: put '| list' before it");
  const std::vector<Value> items = elements(c.self, c.work);
  return items.empty() ? Value(Undefined{"the sequence is empty"}) : items.back();
}

Value reverse_filter(Call& c) {
  if (c.self.is_string()) {
    c.work.spend(c.self.string()->size() * 4);
    std::u32string characters = decode_utf8(*c.self.string());
    std::reverse(characters.begin(), characters.end());
    return encode_utf8(characters);
  }
  std::vector<Value> items = elements(c.self, c.work);
  std::reverse(items.begin(), items.end());
  return Sequence(std::move(items), Kind::generator);
}

Value items_filter(Call& c) {
  Sequence pairs({}, Kind::generator);
  if (c.self.is_undefined()) return pairs;
  if (c.self.dict() == nullptr) fail("'items' needs a dict, not '{}'", c.self.type_name());
  c.work.spend_elements(c.self.dict()->entries.size() * 4);
  for (const auto& [key, value] : c.self.dict()->entries)
    pairs.items.emplace_back(Sequence({key, value}, Kind::tuple));
  return pairs;
}

Value map_filter(Call& c) {
  Sequence result({}, Kind::generator);
  if (!c.self.truth()) return result;
  if (c.rest.positional.empty()) {
    Value attribute, fallback;
    for (const auto& [name, value] : c.rest.named) {
      if (name != "attribute" && name != "default") fail("'map' has no parameter '{}'", name);
      (name == "attribute" ? attribute : fallback) = value;
    }
    if (attribute.is_undefined()) fail("'map' needs a filter's name or 'attribute='");
    for (const Value& item : elements(c.self, c.work))
      result.items.push_back(c.interpreter.path(item, attribute, fallback));
    return result;
  }
  const std::string name = to_text(c.rest.positional.front(), c.work);
  const Arguments arguments{{c.rest.positional.begin() + 1, c.rest.positional.end()}, c.rest.named};
  for (const Value& item : elements(c.self, c.work))
    result.items.push_back(c.interpreter.apply_filter(name, item, arguments));
  return result;
}

/// select, reject (the element itself is tested) and selectattr, rejectattr (an attribute of it).
template <bool wanted, bool by_attribute>
Value select_filter(Call& c) {
  Sequence result({}, Kind::generator);
  if (!c.self.truth()) return result;
  auto& given = c.rest.positional;
  if (by_attribute && given.empty()) fail("'{}' needs an attribute", c.name);
  const std::size_t test = by_attribute ? 1 : 0;
  const bool tested = given.size() > test;
  const std::string name = tested ? to_text(given[test], c.work) : "";
  const Arguments arguments{
      tested ? std::vector<Value>(given.begin() + static_cast<std::ptrdiff_t>(test) + 1, given.end())
             : std::vector<Value>{},
      c.rest.named};
  for (const Value& item : elements(c.self, c.work)) {
    const Value value = by_attribute ? c.interpreter.path(item, given[0]) : item;
    const bool holds = tested ? c.interpreter.apply_test(name, value, arguments) : value.truth();
    if (holds == wanted) result.items.push_back(item);
  }
  return result;
}

Value tojson_filter(Call& c) {
  JsonStyle style;
  style.ascii = c.truth(0, false);
  style.sort_keys = c.truth(3, false);
  if (c.has(1)) {
    style.lines = true;
    style.item_separator = ",";
    const std::int64_t width = c[1].is_string() ? 0 : c.integer(1, 0);
    if (width > 1000) fail("'tojson' with an indent of {} is too much", width);
    style.indent = c[1].is_string()
                       ? *c[1].string()
                       : std::string(static_cast<std::size_t>(std::max<std::int64_t>(width, 0)), ' ');
  }
  if (c.has(2)) {
    const std::vector<Value> separators = elements(c[2], c.work);
    if (separators.size() != 2) fail("'tojson' needs two separators");
    style.item_separator = to_text(separators[0], c.work);
    style.key_separator = to_text(separators[1], c.work);
  }
  return to_json(c.self, style, c.work);
}

Value default_filter(Call& c) {
  const bool replaced = c.self.is_undefined() || (c.truth(1, false) && !c.self.truth());
  return replaced ? (c.bound[0] ? c[0] : Value("")) : c.self;
}

Value replace_filter(Call& c) {
  const std::string text = c.self_text(), from = c.text(0), to = c.text(1);
  c.work.spend(text.size() * 2 + (text.size() / 64) * from.size() +
               (text.size() / std::max<std::size_t>(from.size(), 1) + 1) * to.size());
  return replace(text, from, to, c.integer(2, -1));
}

/// Jinja's own title: words begin after spaces, hyphens and opening brackets.
Value title_filter(Call& c) {
  const std::string text = c.self_text();
  c.work.spend(text.size() * 4);
  std::string result;
  bool inside = false;
  for (const char32_t character : decode_utf8(text)) {
    const std::string one = encode_utf8(character);
    result += inside ? lower_case(one) : upper(one);
    inside =
        !is_space(character) && std::u32string_view(U"-({[<").find(character) == std::u32string_view::npos;
  }
  return result;
}

Value indent_filter(Call& c) {
  const bool spaces = !c.has(0) || !c[0].is_string();
  const std::int64_t width = spaces ? c.integer(0, 4) : 0;
  if (width > 10'000) fail("an indent of {} is too much", width);
  const std::string indent =
      spaces ? std::string(static_cast<std::size_t>(std::max<std::int64_t>(width, 0)), ' ') : *c[0].string();
  const std::string text = c.self_text();
  std::vector<std::string> lines = split_lines(text + "\n");
  c.work.spend(text.size() + lines.size() * (indent.size() + 16));
  std::string result = c.truth(1, false) ? indent : "";
  for (std::size_t i = 0; i < lines.size(); i++) {
    if (i > 0) result += '\n';
    if (i > 0 && (c.truth(2, false) || !lines[i].empty())) result += indent;
    result += lines[i];
  }
  return result;
}

Value truncate_filter(Call& c) {
  const std::string end = c.text(2, "...");
  const std::u32string text = decode_utf8(c.self_text());
  const std::int64_t length = c.integer(0, 255), leeway = c.integer(3, 5);
  const auto end_length = static_cast<std::int64_t>(count_characters(end));
  if (length < end_length || leeway < 0)
    fail("'truncate' needs a length of at least {} and no negative leeway", end_length);
  if (std::ssize(text) - leeway <= length) return encode_utf8(text);
  const std::u32string cut = text.substr(0, static_cast<std::size_t>(length - end_length));
  const std::size_t space = c.truth(1, false) ? std::u32string::npos : cut.rfind(U' ');
  return encode_utf8(cut.substr(0, space)) + end;
}

/// int() and float() of text as Python reads it: white space around, underscores between digits.
std::optional<double> parse_float(std::string_view text) {
  const std::string digits(strip(text, Side::both));
  if (digits.find_first_of("xX") != std::string::npos || digits.empty()) return {};
  char* end = nullptr;
  const double number = std::strtod(digits.c_str(), &end);
  return end == digits.c_str() + digits.size() ? std::optional(number) : std::nullopt;
}

std::optional<std::int64_t> to_integer(double number) {
  if (!(std::abs(number) < 9e18)) return {};
  return static_cast<std::int64_t>(number);
}

Value int_filter(Call& c) {
  const Value fallback = c.bound[0] ? c[0] : Value(std::int64_t{0});
  if (c.self.is_undefined()) fail("{}", c.self.what());
  if (c.self.is_integer() || c.self.is_bool()) return c.self.integer();
  if (c.self.is_string()) {
    const std::string digits(strip(*c.self.string(), Side::both));
    const std::size_t sign = digits.starts_with('+') ? 1 : 0;
    std::int64_t number = 0;
    const auto base = static_cast<int>(std::clamp<std::int64_t>(c.integer(1, 10), 2, 36));
    const auto parsed = std::from_chars(digits.data() + sign, digits.data() + digits.size(), number, base);
    if (parsed.ec == std::errc() && parsed.ptr == digits.data() + digits.size()) return number;
  }
  std::optional<double> real;
  if (c.self.is_float()) real = c.self.number();
  if (c.self.is_string()) real = parse_float(*c.self.string());
  const auto number = real ? to_integer(*real) : std::nullopt;
  return number ? Value(*number) : fallback;
}

Value float_filter(Call& c) {
  if (c.self.is_undefined()) fail("{}", c.self.what());
  if (c.self.is_number()) return c.self.number();
  if (c.self.is_string()) {
    if (const auto number = parse_float(*c.self.string())) return *number;
  }
  return c.bound[0] ? c[0] : Value(0.0);
}

Value round_filter(Call& c) {
  if (!c.self.is_number()) fail("'round' needs a number, not '{}'", c.self.type_name());
  const std::int64_t precision = c.integer(0, 0);
  const std::string method = c.text(1, "common");
  if (std::abs(precision) > 300) fail("'round' to {} places is not possible", precision);
  const double number = c.self.number();
  const double scale = std::pow(10.0, static_cast<double>(precision));
  if (method == "ceil") return std::ceil(number * scale) / scale;
  if (method == "floor") return std::floor(number * scale) / scale;
  if (method != "common") fail("'round' knows common, ceil and floor, not '{}'", method);
  if (!c.self.is_float() && precision >= 0) return c.self.integer();
  if (precision < 0) return std::nearbyint(number * scale) / scale;
  std::array<char, 700> buffer{};  // decimal rounding of the exact value, halves to even, as Python does
  std::snprintf(buffer.data(), buffer.size(), "%.*f", static_cast<int>(precision), number);
  return std::strtod(buffer.data(), nullptr);
}

Value abs_filter(Call& c) {
  if (!c.self.is_number()) fail("'abs' needs a number, not '{}'", c.self.type_name());
  if (c.self.is_float()) return std::abs(c.self.number());
  return c.self.integer() < 0 ? arithmetic("-", std::int64_t{0}, c.self, c.work) : Value(c.self.integer());
}

Value trim_filter(Call& c) {
  const std::string text = c.self_text();
  return std::string(c.has(0) ? strip(text, Side::both, c.text(0)) : strip(text, Side::both));
}

Value escape_filter(Call& c) {
  std::string text = c.self_text();
  c.work.spend(text.size() * 5);
  for (const auto& [from, to] :
       {std::pair("&", "&amp;"), {"<", "&lt;"}, {">", "&gt;"}, {"'", "&#39;"}, {"\"", "&#34;"}})
    text = replace(text, from, to, -1);
  return text;
}

template <std::string (*change)(std::string_view)>
Value changed(Call& c) {
  const std::string text = c.self_text();
  c.work.spend(text.size() * 8);
  return change(text);
}

Value length_filter(Call& c) { return length(c.self, c.work); }
Value string_filter(Call& c) { return c.self_text(); }

}  // namespace

std::vector<Value> sorted(std::vector<Value> elements, const std::vector<Value>& keys, bool reverse,
                          bool case_sensitive, Work& work) {
  std::vector<Value> by;
  for (const Value& key : keys) {
    const Sequence* several = key.sequence();
    if (case_sensitive || several == nullptr) {
      by.push_back(case_sensitive ? key : folded(key));
    } else {
      Sequence parts({}, several->kind);
      for (const Value& part : several->items) parts.items.push_back(folded(part));
      by.emplace_back(std::move(parts));
    }
  }
  std::vector<std::size_t> order(elements.size());
  std::iota(order.begin(), order.end(), std::size_t{0});
  work.spend_elements(elements.size());
  std::stable_sort(order.begin(), order.end(), [&](std::size_t a, std::size_t b) {
    work.spend_elements(1);
    return compare(by[a], by[b], work) ==
           (reverse ? std::partial_ordering::greater : std::partial_ordering::less);
  });
  std::vector<Value> result;
  result.reserve(order.size());
  for (const std::size_t i : order) result.push_back(std::move(elements[i]));
  return result;
}

const Builtins& filters() {
  static const Builtins table = {
      {"abs", {abs_filter}},
      {"attr", {[](Call& c) -> Value { return c.interpreter.attribute(c.self, c.text(0)); }, {"name"}, 1}},
      {"capitalize", {changed<capitalize>}},
      {"count", {length_filter}},
      {"d", {default_filter, {"default_value", "boolean"}}},
      {"default", {default_filter, {"default_value", "boolean"}}},
      {"dictsort", {dictsort_filter, {"case_sensitive", "by", "reverse"}}},
      {"e", {escape_filter}},
      {"escape", {escape_filter}},
      {"first", {first_filter}},
      {"float", {float_filter, {"default"}}},
      {"format",
       {[](Call& c) -> Value { return format_percent(c.self_text(), c.rest.positional, c.work); },
        {},
        0,
        true}},
      {"indent", {indent_filter, {"width", "first", "blank"}}},
      {"int", {int_filter, {"default", "base"}}},
      {"items", {items_filter}},
      {"join", {join_filter, {"d", "attribute"}}},
      {"last", {last_filter}},
      {"length", {length_filter}},
      {"list", {[](Call& c) -> Value { return Sequence(elements(c.self, c.work)); }}},
      {"lower", {changed<lower_case>}},
      {"map", {map_filter, {}, 0, true}},
      {"max", {extreme_filter<true>, {"case_sensitive", "attribute"}}},
      {"min", {extreme_filter<false>, {"case_sensitive", "attribute"}}},
      {"reject", {select_filter<false, false>, {}, 0, true}},
      {"rejectattr", {select_filter<false, true>, {}, 0, true}},
      {"replace", {replace_filter, {"old", "new", "count"}, 2}},
      {"reverse", {reverse_filter}},
      {"round", {round_filter, {"precision", "method"}}},
      {"safe", {string_filter}},
      {"select", {select_filter<true, false>, {}, 0, true}},
      {"selectattr", {select_filter<true, true>, {}, 0, true}},
      {"sort", {sort_filter, {"reverse", "case_sensitive", "attribute"}}},
      {"string", {string_filter}},
      {"sum", {sum_filter, {"attribute", "start"}}},
      {"title", {title_filter}},
      {"tojson", {tojson_filter, {"ensure_ascii", "indent", "separators", "sort_keys"}}},
      {"trim", {trim_filter, {"chars"}}},
      {"truncate", {truncate_filter, {"length", "killwords", "end", "leeway"}}},
      {"unique", {unique_filter, {"case_sensitive", "attribute"}}},
      {"upper", {changed<upper>}},
  };
  return table;
}

}  // namespace fathom::jinja
