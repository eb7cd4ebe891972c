// Values of the template language: Python's, as far as templates see them.
#pragma once

#include <algorithm>
#include <compare>
#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <unordered_map>
#include <utility>
#include <variant>
#include <vector>

#include "base/json.h"

namespace fathom::jinja {

/// What a rendering may still spend. Templates come with models from anywhere: everything that grows or loops
/// pays first (a byte made: 1, an element made or visited: 32, about its size), so that a hostile template
/// ends in an Error after about a second and within the same number of bytes.
class Work {
 public:
  /// Throws Error when nothing is left.
  void spend(std::size_t units);
  void spend_elements(std::size_t count) { spend(std::min(count, left_) * 32); }

 private:
  std::size_t left_ = std::size_t{256} << 20;
};

struct Sequence;
struct Dict;
struct Namespace;
struct Loop;
struct Function;

/// A name or attribute that does not exist: prints as nothing, is false and empty, and everything else with
/// it is an error.
struct Undefined {
  std::string what;  ///< "'tools' is undefined"
};
struct None {};

using Text = std::shared_ptr<const std::string>;

class Value {
 public:
  Value() : Value(Undefined{}) {}
  Value(Undefined undefined);
  Value(None) : data_(None{}) {}
  Value(bool value) : data_(value) {}
  Value(std::int64_t value) : data_(value) {}
  Value(double value) : data_(value) {}
  Value(std::string value);
  Value(const char* value) : Value(std::string(value)) {}
  Value(Sequence value);
  Value(Dict value);
  Value(std::shared_ptr<Namespace> value) : data_(std::move(value)) {}
  Value(std::shared_ptr<const Loop> value) : data_(std::move(value)) {}
  Value(Function value);

  bool is_undefined() const { return std::holds_alternative<UndefinedText>(data_); }
  bool is_none() const { return std::holds_alternative<None>(data_); }
  bool is_bool() const { return std::holds_alternative<bool>(data_); }
  bool is_integer() const { return std::holds_alternative<std::int64_t>(data_); }  ///< not bool
  bool is_float() const { return std::holds_alternative<double>(data_); }
  bool is_number() const { return is_bool() || is_integer() || is_float(); }
  bool is_string() const { return std::holds_alternative<Text>(data_); }

  /// Null when the value is something else.
  const std::string* string() const;
  const Sequence* sequence() const;
  const Dict* dict() const;
  Namespace* name_space() const;
  const Loop* loop() const;
  const Function* function() const;

  std::int64_t integer() const;   ///< of an integer or bool
  double number() const;          ///< of any number
  std::string_view what() const;  ///< of an undefined value

  bool truth() const;
  /// How deep containers nest inside; at most max_height, so that recursion over a value is safe.
  int height() const;
  /// "int", "str", "list"...: Python's name, for messages.
  std::string_view type_name() const;
  bool same_object(const Value& other) const;

 private:
  struct UndefinedText {
    Text text;
  };
  template <typename T>
  const T* pointer() const;

  std::variant<UndefinedText, None, bool, std::int64_t, double, Text, std::shared_ptr<const Sequence>,
               std::shared_ptr<const Dict>, std::shared_ptr<Namespace>, std::shared_ptr<const Loop>,
               std::shared_ptr<const Function>>
      data_;
};

inline constexpr int max_height = 100;

/// Lists and what behaves like them.
struct Sequence {
  enum class Kind { list, tuple, generator, keys, values, items };
  Sequence() = default;
  explicit Sequence(std::vector<Value> elements, Kind of = Kind::list)
      : kind(of), items(std::move(elements)) {}

  bool is_view() const { return kind == Kind::keys || kind == Kind::values || kind == Kind::items; }

  Kind kind = Kind::list;
  std::vector<Value> items;
  int height = 1;
  /// A generator (what map, select, ... give) can be gone through once.
  mutable bool consumed = false;
};

struct Dict {
  const Value* find(const Value& key, Work& work) const;
  const Value* find_name(std::string_view key, Work& work) const;
  void set(const Value& key, Value value, Work& work);

  std::vector<std::pair<Value, Value>> entries;  ///< in the order of insertion
  int height = 1;
};

/// The only thing that a template can change. It is owned by the rendering, which clears it, so that one that
/// contains itself is freed.
struct Namespace {
  Dict fields;
};

struct Loop {
  std::shared_ptr<const std::vector<Value>> items;
  std::size_t index = 0;
  int height = 1;
};

struct Node;
struct Scope;

/// A macro with its scope, a method with its object, or a global function.
struct Function {
  std::string name;
  Value self;
  const Node* macro = nullptr;
  std::shared_ptr<Scope> scope;
};

/// Variables of a block; names outlive the rendering.
struct Scope {
  std::shared_ptr<Scope> parent;
  std::unordered_map<std::string_view, Value> variables;
};

/// A copy of a JSON value.
Value from_json(const Json& json, Work& work);

/// `left == right`: numbers by value (True == 1), strings, lists and dicts by content.
bool equal(const Value& left, const Value& right, Work& work);
/// Order of numbers, strings and sequences; throws Error for values that Python does not order.
std::partial_ordering compare(const Value& left, const Value& right, Work& work);
/// `element in container`
bool contains(const Value& container, const Value& element, Work& work);

/// The elements of anything that can be iterated over (characters of a string, keys of a dict). Throws Error
/// otherwise.
std::vector<Value> elements(const Value& value, Work& work);
/// len(); throws Error for what has none.
std::int64_t length(const Value& value, Work& work);

/// str(value) and repr(value) of Python.
std::string to_text(const Value& value, Work& work);
std::string to_repr(const Value& value, Work& work);

struct JsonStyle {
  bool ascii = false, sort_keys = false;
  std::string indent;  ///< one level's; used if `lines`
  bool lines = false;
  std::string item_separator = ", ", key_separator = ": ";
};
/// json.dumps(value)
std::string to_json(const Value& value, const JsonStyle& style, Work& work);

}  // namespace fathom::jinja
