// Methods of strings, dicts and lists.
#include <algorithm>

#include "base/error.h"
#include "text/jinja/interpreter.h"
#include "text/jinja/text.h"
#include "text/unicode.h"

namespace fathom::jinja {
namespace {

const std::string& self_string(const Call& c) { return *c.self.string(); }

/// What searching costs at worst: a pass over the text, and a comparison at every place.
void pay_search(Call& c, std::size_t needle) {
  const std::size_t size = self_string(c).size();
  c.work.spend(size * 2 + (size / 64) * needle);
}

std::string string_argument(const Call& c, std::size_t parameter) {
  const Value& value = c[parameter];
  if (!value.is_string()) fail("'{}' needs a string, not '{}'", c.name, value.type_name());
  return *value.string();
}

template <Side side>
Value strip_method(Call& c) {
  c.work.spend(self_string(c).size());
  if (!c.has(0)) return std::string(strip(self_string(c), side));
  return std::string(strip(self_string(c), side, string_argument(c, 0)));
}

Value list_of(std::vector<std::string> parts, Work& work) {
  Sequence list;
  work.spend_elements(parts.size() * 3);
  for (std::string& part : parts) list.items.emplace_back(std::move(part));
  return list;
}

template <bool from_right>
Value split_method(Call& c) {
  std::optional<std::string> separator;
  if (c.has(0)) separator = string_argument(c, 0);
  if (separator && separator->empty()) fail("'{}' needs a separator that is not empty", c.name);
  pay_search(c, separator ? separator->size() : 1);
  return list_of(split(self_string(c), separator, c.integer(1, -1), from_right), c.work);
}

/// startswith and endswith take one string or a tuple of them.
template <bool at_start>
Value has_affix(Call& c) {
  const Sequence* tuple = c[0].sequence();
  const std::vector<Value> candidates = tuple != nullptr ? tuple->items : std::vector<Value>{c[0]};
  return std::any_of(candidates.begin(), candidates.end(), [&](const Value& candidate) {
    if (!candidate.is_string()) fail("'{}' needs a string, not '{}'", c.name, candidate.type_name());
    c.work.spend(candidate.string()->size());
    return at_start ? self_string(c).starts_with(*candidate.string())
                    : self_string(c).ends_with(*candidate.string());
  });
}

template <bool at_start>
Value without_affix(Call& c) {
  const std::string affix = string_argument(c, 0);
  const std::string_view text = self_string(c);
  c.work.spend(text.size());
  if (at_start ? !text.starts_with(affix) : !text.ends_with(affix)) return c.self;
  return std::string(at_start ? text.substr(affix.size()) : text.substr(0, text.size() - affix.size()));
}

template <bool from_right, bool must_be>
Value find_method(Call& c) {
  const std::string needle = string_argument(c, 0);
  pay_search(c, needle.size());
  const std::string_view text = self_string(c);
  const std::size_t at = from_right ? text.rfind(needle) : text.find(needle);
  if (at != std::string_view::npos) return static_cast<std::int64_t>(count_characters(text.substr(0, at)));
  if (must_be) fail("'{}': the text is not found", c.name);
  return std::int64_t{-1};
}

Value count_method(Call& c) {
  const std::string needle = string_argument(c, 0);
  pay_search(c, needle.size());
  if (needle.empty()) return static_cast<std::int64_t>(count_characters(self_string(c)) + 1);
  std::int64_t count = 0;
  for (std::size_t at = 0; (at = self_string(c).find(needle, at)) != std::string::npos; at += needle.size())
    count++;
  return count;
}

Value replace_method(Call& c) {
  const std::string from = string_argument(c, 0), to = string_argument(c, 1);
  pay_search(c, from.size());
  c.work.spend((self_string(c).size() / std::max<std::size_t>(from.size(), 1) + 1) * to.size());
  return replace(self_string(c), from, to, c.integer(2, -1));
}

Value join_method(Call& c) {
  std::string text;
  bool first = true;
  for (const Value& part : elements(c[0], c.work)) {
    if (!part.is_string()) fail("'join' needs strings, not '{}'", part.type_name());
    c.work.spend(part.string()->size() + self_string(c).size());
    if (!std::exchange(first, false)) text += self_string(c);
    text += *part.string();
  }
  return text;
}

/// str.format with {}, {0} and {name}; conversions and format specifications are refused.
Value format_method(Call& c) {
  const std::string& format = self_string(c);
  std::string text;
  std::size_t next = 0;
  const auto argument = [&](const std::string& field) -> const Value& {
    const bool number =
        std::all_of(field.begin(), field.end(), [](char ch) { return ch >= '0' && ch <= '9'; });
    if (number && field.size() < 6) {
      const std::size_t index = field.empty() ? next++ : std::stoul(field);
      if (index >= c.rest.positional.size()) fail("the format '{}' needs more values", format);
      return c.rest.positional[index];
    }
    for (const auto& [name, value] : c.rest.named)
      if (name == field) return value;
    fail("the format field '{{{}}}' is not supported", field);
  };
  for (std::size_t i = 0; i < format.size(); i++) {
    const char ch = format[i];
    if (ch != '{' && ch != '}') {
      text += ch;
    } else if (i + 1 < format.size() && format[i + 1] == ch) {
      text += format[i++];
    } else {
      const std::size_t close = format.find('}', i);
      if (ch == '}' || close == std::string::npos) fail("the format '{}' has a single '{}'", format, ch);
      text += to_text(argument(format.substr(i + 1, close - i - 1)), c.work);
      i = close;
    }
  }
  c.work.spend(text.size() + format.size());
  return text;
}

bool is_letter_or_digit(char32_t c) { return is_letter(c) || is_digit(c); }

template <bool (*holds)(char32_t)>
Value all_characters(Call& c) {
  c.work.spend(self_string(c).size() * 4);
  const std::u32string characters = decode_utf8(self_string(c));
  return !characters.empty() && std::all_of(characters.begin(), characters.end(), holds);
}

template <std::string (*change)(std::string_view)>
Value changed(Call& c) {
  c.work.spend(self_string(c).size() * 8);
  return change(self_string(c));
}

Value get_method(Call& c) {
  if (const Value* value = c.self.dict()->find(c[0], c.work)) return *value;
  return c.bound[1] ? c[1] : Value(None{});
}

template <Sequence::Kind kind>
Value dict_view(Call& c) {
  Sequence view({}, kind);
  c.work.spend_elements(c.self.dict()->entries.size() * 4);
  for (const auto& [key, value] : c.self.dict()->entries) {
    if (kind == Sequence::Kind::keys) view.items.push_back(key);
    if (kind == Sequence::Kind::values) view.items.push_back(value);
    if (kind == Sequence::Kind::items) view.items.emplace_back(Sequence({key, value}, Sequence::Kind::tuple));
  }
  return view;
}

Value refuse_change(Call& c) {
  fail("'{}' of '{}' would change a value, which templates may not", c.name, c.self.type_name());
}

Value index_method(Call& c) {
  const auto& items = c.self.sequence()->items;
  for (std::size_t i = 0; i < items.size(); i++) {
    c.work.spend_elements(1);
    if (equal(items[i], c[0], c.work)) return static_cast<std::int64_t>(i);
  }
  fail("'index': {} is not in the {}", to_repr(c[0], c.work).substr(0, 60), c.self.type_name());
}

Value count_equal(Call& c) {
  const auto& items = c.self.sequence()->items;
  c.work.spend_elements(items.size());
  return static_cast<std::int64_t>(std::count_if(
      items.begin(), items.end(), [&](const Value& item) { return equal(item, c[0], c.work); }));
}

}  // namespace

const Builtins& string_methods() {
  static const Builtins table = {
      {"strip", {strip_method<Side::both>, {"chars"}}},
      {"lstrip", {strip_method<Side::left>, {"chars"}}},
      {"rstrip", {strip_method<Side::right>, {"chars"}}},
      {"split", {split_method<false>, {"sep", "maxsplit"}}},
      {"rsplit", {split_method<true>, {"sep", "maxsplit"}}},
      {"splitlines",
       {[](Call& c) -> Value {
          pay_search(c, 1);
          return list_of(split_lines(self_string(c), c.truth(0, false)), c.work);
        },
        {"keepends"}}},
      {"startswith", {has_affix<true>, {"prefix"}, 1}},
      {"endswith", {has_affix<false>, {"suffix"}, 1}},
      {"removeprefix", {without_affix<true>, {"prefix"}, 1}},
      {"removesuffix", {without_affix<false>, {"suffix"}, 1}},
      {"find", {find_method<false, false>, {"sub"}, 1}},
      {"rfind", {find_method<true, false>, {"sub"}, 1}},
      {"index", {find_method<false, true>, {"sub"}, 1}},
      {"rindex", {find_method<true, true>, {"sub"}, 1}},
      {"count", {count_method, {"sub"}, 1}},
      {"replace", {replace_method, {"old", "new", "count"}, 2}},
      {"join", {join_method, {"iterable"}, 1}},
      {"format", {format_method, {}, 0, true}},
      {"upper", {changed<upper>}},
      {"lower", {changed<lower_case>}},
      {"title", {changed<title>}},
      {"capitalize", {changed<capitalize>}},
      {"isspace", {all_characters<is_space>}},
      {"isalpha", {all_characters<is_letter>}},
      {"isdigit", {all_characters<is_digit>}},
      {"isdecimal", {all_characters<is_digit>}},
      {"isnumeric", {all_characters<is_digit>}},
      {"isalnum", {all_characters<is_letter_or_digit>}},
      {"isupper", {[](Call& c) -> Value { return c.interpreter.apply_test("upper", c.self, {}); }}},
      {"islower", {[](Call& c) -> Value { return c.interpreter.apply_test("lower", c.self, {}); }}},
  };
  return table;
}

const Builtins& dict_methods() {
  static const Builtins table = {
      {"get", {get_method, {"key", "default"}, 1}},        {"keys", {dict_view<Sequence::Kind::keys>}},
      {"values", {dict_view<Sequence::Kind::values>}},     {"items", {dict_view<Sequence::Kind::items>}},
      {"copy", {[](Call& c) -> Value { return c.self; }}}, {"pop", {refuse_change, {}, 0, true}},
      {"popitem", {refuse_change, {}, 0, true}},           {"update", {refuse_change, {}, 0, true}},
      {"setdefault", {refuse_change, {}, 0, true}},        {"clear", {refuse_change, {}, 0, true}},
  };
  return table;
}

const Builtins& sequence_methods() {
  static const Builtins table = {
      {"index", {index_method, {"value"}, 1}},
      {"count", {count_equal, {"value"}, 1}},
      {"copy", {[](Call& c) -> Value { return c.self; }}},
      {"append", {refuse_change, {}, 0, true}},
      {"extend", {refuse_change, {}, 0, true}},
      {"insert", {refuse_change, {}, 0, true}},
      {"pop", {refuse_change, {}, 0, true}},
      {"remove", {refuse_change, {}, 0, true}},
      {"reverse", {refuse_change, {}, 0, true}},
      {"sort", {refuse_change, {}, 0, true}},
      {"clear", {refuse_change, {}, 0, true}},
  };
  return table;
}

}  // namespace fathom::jinja
