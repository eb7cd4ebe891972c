// Calls of builtins, the global functions, and the tests ("is ...").
#include "text/jinja/library.h"

#include <algorithm>
#include <array>
#include <ctime>
#include <numeric>

#include "base/error.h"
#include "text/jinja/interpreter.h"
#include "text/jinja/text.h"

namespace fathom::jinja {

bool Call::truth(std::size_t parameter, bool fallback) const {
  return bound[parameter] ? bound[parameter]->truth() : fallback;
}

std::int64_t Call::integer(std::size_t parameter, std::int64_t fallback) const {
  if (!has(parameter)) return fallback;
  const Value& value = *bound[parameter];
  if (!value.is_integer() && !value.is_bool())
    fail("'{}' needs an integer, not '{}'", name, value.type_name());
  return value.integer();
}

std::string Call::text(std::size_t parameter, std::string_view fallback) const {
  if (!has(parameter)) return std::string(fallback);
  return to_text(*bound[parameter], work);
}

Value run_builtin(const Builtin& builtin, Interpreter& interpreter, std::string_view name, const Value& self,
                  Arguments arguments) {
  Call call{interpreter, interpreter.work(), name, self, {}, {}};
  if (builtin.variadic) {
    call.rest = std::move(arguments);
    return builtin.run(call);
  }
  const auto& parameters = builtin.parameters;
  if (arguments.positional.size() > parameters.size())
    fail("'{}' takes at most {} arguments, got {}", name, parameters.size(), arguments.positional.size());
  call.bound.resize(parameters.size());
  for (std::size_t i = 0; i < arguments.positional.size(); i++)
    call.bound[i] = std::move(arguments.positional[i]);
  for (auto& [keyword, value] : arguments.named) {
    const auto found = std::find(parameters.begin(), parameters.end(), keyword);
    if (found == parameters.end()) fail("'{}' has no parameter '{}'", name, keyword);
    auto& place = call.bound[static_cast<std::size_t>(found - parameters.begin())];
    if (place) fail("'{}' got two values for '{}'", name, keyword);
    place = std::move(value);
  }
  for (std::size_t i = 0; i < builtin.required; i++)
    if (!call.bound[i]) fail("'{}' needs its argument '{}'", name, parameters[i]);
  return builtin.run(call);
}

const Builtins* methods_of(const Value& value) {
  if (value.is_string()) return &string_methods();
  if (value.dict() != nullptr) return &dict_methods();
  if (value.loop() != nullptr) return &loop_methods();
  if (const Sequence* list = value.sequence()) {
    const bool indexed = list->kind == Sequence::Kind::list || list->kind == Sequence::Kind::tuple;
    return indexed ? &sequence_methods() : nullptr;
  }
  return nullptr;
}

namespace {

constexpr std::int64_t most_range = 100'000;  // as in Jinja's sandbox

Value range(Call& c) {
  const bool one = !c.bound[1];
  const std::int64_t start = one ? 0 : c.integer(0, 0), stop = c.integer(one ? 0 : 1, 0),
                     step = c.integer(2, 1);
  if (step == 0) fail("a range's step is 0");
  if (std::max(std::abs(start / 2), std::abs(stop / 2)) > INT64_MAX / 8 || std::abs(step / 2) > INT64_MAX / 8)
    fail("a range's bounds are too large");
  const std::int64_t count = step > 0 ? (stop - start + step - 1) / step : (start - stop - step - 1) / -step;
  if (count > most_range) fail("a range has {} elements, at most {} are allowed", count, most_range);
  Sequence result;
  c.work.spend_elements(static_cast<std::size_t>(std::max<std::int64_t>(count, 0)));
  for (std::int64_t i = 0; i < count; i++) result.items.emplace_back(start + i * step);
  return result;
}

Dict named_fields(Call& c) {
  Dict fields;
  for (const Value& source : c.rest.positional) {
    const Dict* dict = source.dict();
    for (const Value& entry : dict != nullptr ? std::vector<Value>{} : elements(source, c.work)) {
      const std::vector<Value> pair = elements(entry, c.work);
      if (pair.size() != 2) fail("'{}' needs pairs of a key and a value", c.name);
      fields.set(pair[0], pair[1], c.work);
    }
    if (dict != nullptr) {
      for (const auto& [key, value] : dict->entries) fields.set(key, value, c.work);
    }
  }
  for (auto& [name, value] : c.rest.named) fields.set(name, value, c.work);
  return fields;
}

Value make_namespace(Call& c) {
  Dict fields = named_fields(c);
  for (const auto& entry : fields.entries)
    if (entry.first.is_string() && entry.first.string()->starts_with('_'))
      fail("'{}': names in a namespace may not begin with _", *entry.first.string());
  return c.interpreter.new_namespace(std::move(fields));
}

Value strftime_now(Call& c) {
  const std::string format = c.text(0);
  const std::time_t now = std::time(nullptr);
  std::tm local{};
  localtime_r(&now, &local);
  std::array<char, 4096> buffer{};
  // strftime gives 0 both for a text that does not fit and for an empty one.
  const std::size_t size = std::strftime(buffer.data(), buffer.size(), (format + "|").c_str(), &local);
  if (size == 0) fail("the time format '{}' gives more than {} bytes", format.substr(0, 60), buffer.size());
  return std::string(buffer.data(), size - 1);
}

bool has_case(const std::string& text, bool (*is)(char32_t), bool (*is_other)(char32_t)) {
  bool found = false;
  for (const char32_t character : decode_utf8(text)) {
    if (is_other(character)) return false;
    found = found || is(character);
  }
  return found;
}

template <bool (*holds)(std::partial_ordering)>
Value ordered(Call& c) {
  return holds(compare(c.self, c[0], c.work));
}

std::int64_t whole(Call& c) {
  if (!c.self.is_integer() && !c.self.is_bool())
    fail("'{}' needs an integer, not '{}'", c.name, c.self.type_name());
  return c.self.integer();
}

Value is_defined(Call& c) { return !c.self.is_undefined(); }
Value is_equal(Call& c) { return equal(c.self, c[0], c.work); }
Value is_unequal(Call& c) { return !equal(c.self, c[0], c.work); }

Builtins make_tests() {
  Builtins table = {
      {"defined", {is_defined}},
      {"undefined", {[](Call& c) -> Value { return c.self.is_undefined(); }}},
      {"none", {[](Call& c) -> Value { return c.self.is_none(); }}},
      {"boolean", {[](Call& c) -> Value { return c.self.is_bool(); }}},
      {"true", {[](Call& c) -> Value { return c.self.is_bool() && c.self.truth(); }}},
      {"false", {[](Call& c) -> Value { return c.self.is_bool() && !c.self.truth(); }}},
      {"integer", {[](Call& c) -> Value { return c.self.is_integer(); }}},
      {"float", {[](Call& c) -> Value { return c.self.is_float(); }}},
      {"number", {[](Call& c) -> Value { return c.self.is_number(); }}},
      {"string", {[](Call& c) -> Value { return c.self.is_string(); }}},
      {"mapping", {[](Call& c) -> Value { return c.self.dict() != nullptr; }}},
      {"callable", {[](Call& c) -> Value { return c.self.function() != nullptr; }}},
      {"iterable", {[](Call& c) -> Value {
         return c.self.is_undefined() || c.self.is_string() || c.self.dict() != nullptr ||
                c.self.sequence() != nullptr || c.self.loop() != nullptr;
       }}},
      {"sequence", {[](Call& c) -> Value {
         const Sequence* list = c.self.sequence();
         return c.self.is_undefined() || c.self.is_string() || c.self.dict() != nullptr ||
                (list != nullptr && !list->is_view() && list->kind != Sequence::Kind::generator);
       }}},
      {"odd", {[](Call& c) -> Value { return whole(c) % 2 != 0; }}},
      {"even", {[](Call& c) -> Value { return whole(c) % 2 == 0; }}},
      {"divisibleby",
       {[](Call& c) -> Value {
          const std::int64_t divisor = c.integer(0, 1);
          if (divisor == 0) fail("division by zero");
          return divisor == -1 || whole(c) % divisor == 0;
        },
        {"num"},
        1}},
      {"lower", {[](Call& c) -> Value { return has_case(c.self_text(), is_lower, is_upper); }}},
      {"upper", {[](Call& c) -> Value { return has_case(c.self_text(), is_upper, is_lower); }}},
      {"in", {[](Call& c) -> Value { return contains(c[0], c.self, c.work); }, {"seq"}, 1}},
      {"sameas", {[](Call& c) -> Value { return c.self.same_object(c[0]); }, {"other"}, 1}},
      {"filter", {[](Call& c) -> Value { return filters().contains(c.self_text()); }}},
      {"test", {[](Call& c) -> Value { return tests().contains(c.self_text()); }}},
  };
  const auto add = [&](std::initializer_list<std::string_view> names, Value (*run)(Call&)) {
    for (const std::string_view name : names) table[name] = {run, {"other"}, 1};
  };
  add({"==", "eq", "equalto"}, is_equal);
  add({"!=", "ne"}, is_unequal);
  add({"<", "lt", "lessthan"}, ordered<std::is_lt>);
  add({"<=", "le"}, ordered<std::is_lteq>);
  add({">", "gt", "greaterthan"}, ordered<std::is_gt>);
  add({">=", "ge"}, ordered<std::is_gteq>);
  return table;
}

}  // namespace

const Builtins& tests() {
  static const Builtins table = make_tests();
  return table;
}

const Builtins& globals() {
  static const Builtins table = {
      {"range", {range, {"start", "stop", "step"}, 1}},
      {"dict", {[](Call& c) -> Value { return named_fields(c); }, {}, 0, true}},
      {"namespace", {make_namespace, {}, 0, true}},
      {"raise_exception", {[](Call& c) -> Value { fail("{}", c.text(0)); }, {"message"}, 1}},
      {"strftime_now", {strftime_now, {"format"}, 1}},
  };
  return table;
}

const Builtins& loop_methods() {
  static const Builtins table = {
      {"cycle",
       {[](Call& c) -> Value {
          if (c.rest.positional.empty()) fail("'cycle' needs a value");
          return c.rest.positional[c.self.loop()->index % c.rest.positional.size()];
        },
        {},
        0,
        true}},
  };
  return table;
}

}  // namespace fathom::jinja
