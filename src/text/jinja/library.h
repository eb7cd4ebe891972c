// What templates can call: filters, tests, methods and global functions, as tables.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <unordered_map>
#include <utility>
#include <vector>

#include "text/jinja/value.h"

namespace fathom::jinja {

class Interpreter;

struct Arguments {
  std::vector<Value> positional;
  std::vector<std::pair<std::string, Value>> named;
};

/// One call of a builtin, with its arguments bound to its parameters.
struct Call {
  Interpreter& interpreter;
  Work& work;
  std::string_view name;
  Value self;                               ///< a filter's input, a method's object
  std::vector<std::optional<Value>> bound;  ///< one for each parameter
  Arguments rest;                           ///< all arguments, of variadic builtins

  const Value& operator[](std::size_t parameter) const { return *bound[parameter]; }
  bool has(std::size_t parameter) const { return bound[parameter] && !bound[parameter]->is_none(); }
  /// With a fallback where nothing (or None) was passed. Throw Error for another type.
  bool truth(std::size_t parameter, bool fallback) const;
  std::int64_t integer(std::size_t parameter, std::int64_t fallback) const;
  std::string text(std::size_t parameter, std::string_view fallback = "") const;
  /// `self` as text.
  std::string self_text() const { return to_text(self, work); }
};

struct Builtin {
  Value (*run)(Call&);
  std::vector<std::string_view> parameters = {};
  std::size_t required = 0;
  bool variadic = false;  ///< arguments are left in `rest`
};
using Builtins = std::unordered_map<std::string_view, Builtin>;

const Builtins& filters();
const Builtins& tests();
const Builtins& globals();  ///< range, dict, namespace, raise_exception, strftime_now
const Builtins& string_methods();
const Builtins& dict_methods();
const Builtins& sequence_methods();
const Builtins& loop_methods();

/// The methods of a value's type; null if it has none.
const Builtins* methods_of(const Value& value);

/// Binds and runs. Throws Error for arguments that the builtin does not take.
Value run_builtin(const Builtin& builtin, Interpreter& interpreter, std::string_view name, const Value& self,
                  Arguments arguments);

/// Python's format % arguments.
std::string format_percent(std::string_view format, const std::vector<Value>& arguments, Work& work);

/// sorted(): by `key` of each element; strings by lower case unless `case_sensitive`.
std::vector<Value> sorted(std::vector<Value> elements, const std::vector<Value>& keys, bool reverse,
                          bool case_sensitive, Work& work);

}  // namespace fathom::jinja
