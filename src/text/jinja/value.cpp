#include "text/jinja/value.h"

#include <algorithm>
#include <cmath>

#include "base/error.h"
#include "text/jinja/text.h"
#include "text/unicode.h"

namespace fathom::jinja {
namespace {

int height_of(const std::vector<Value>& values) {
  int height = 0;
  for (const Value& value : values) height = std::max(height, value.height());
  return height + 1;
}

int checked(int height) {
  if (height > max_height) fail("values nest deeper than {} levels", max_height);
  return height;
}

}  // namespace

void Work::spend(std::size_t units) {
  if (units > left_) fail("the template does too much work (an endless loop, or an output that explodes)");
  left_ -= units;
}

Value::Value(Undefined undefined)
    : data_(UndefinedText{undefined.what.empty()
                              ? nullptr
                              : std::make_shared<const std::string>(std::move(undefined.what))}) {}
Value::Value(std::string value) : data_(std::make_shared<const std::string>(std::move(value))) {}
Value::Value(Sequence value) {
  value.height = checked(height_of(value.items));
  data_ = std::make_shared<const Sequence>(std::move(value));
}
Value::Value(Dict value) {
  checked(value.height);
  data_ = std::make_shared<const Dict>(std::move(value));
}
Value::Value(Function value) {
  checked(value.self.height() + 1);
  data_ = std::make_shared<const Function>(std::move(value));
}

template <typename T>
const T* Value::pointer() const {
  const auto* held = std::get_if<std::shared_ptr<const T>>(&data_);
  return held == nullptr ? nullptr : held->get();
}
const std::string* Value::string() const { return pointer<std::string>(); }
const Sequence* Value::sequence() const { return pointer<Sequence>(); }
const Dict* Value::dict() const { return pointer<Dict>(); }
const Loop* Value::loop() const { return pointer<Loop>(); }
const Function* Value::function() const { return pointer<Function>(); }
Namespace* Value::name_space() const {
  const auto* held = std::get_if<std::shared_ptr<Namespace>>(&data_);
  return held == nullptr ? nullptr : held->get();
}

std::int64_t Value::integer() const {
  if (const bool* truth = std::get_if<bool>(&data_)) return *truth ? 1 : 0;
  return std::get<std::int64_t>(data_);
}

double Value::number() const {
  if (const double* number = std::get_if<double>(&data_)) return *number;
  return static_cast<double>(integer());
}

std::string_view Value::what() const {
  const auto& text = std::get<UndefinedText>(data_).text;
  return text == nullptr ? std::string_view("a value is undefined") : std::string_view(*text);
}

bool Value::truth() const {
  if (is_undefined() || is_none()) return false;
  if (is_number()) return number() != 0;
  if (const auto* text = string()) return !text->empty();
  if (const auto* list = sequence()) return list->kind == Sequence::Kind::generator || !list->items.empty();
  if (const auto* map = dict()) return !map->entries.empty();
  return true;
}

int Value::height() const {
  if (const auto* list = sequence()) return list->height;
  if (const auto* map = dict()) return map->height;
  if (const auto* state = loop()) return state->height;
  if (const auto* callable = function()) return callable->self.height() + 1;
  return 0;
}

std::string_view Value::type_name() const {
  if (is_undefined()) return "Undefined";
  if (is_none()) return "NoneType";
  if (is_bool()) return "bool";
  if (is_integer()) return "int";
  if (is_float()) return "float";
  if (is_string()) return "str";
  if (dict() != nullptr) return "dict";
  if (name_space() != nullptr) return "Namespace";
  if (loop() != nullptr) return "LoopContext";
  if (function() != nullptr) return "function";
  switch (sequence()->kind) {
    case Sequence::Kind::list:
      return "list";
    case Sequence::Kind::tuple:
      return "tuple";
    case Sequence::Kind::generator:
      return "generator";
    case Sequence::Kind::keys:
      return "dict_keys";
    case Sequence::Kind::values:
      return "dict_values";
    case Sequence::Kind::items:
      return "dict_items";
  }
  return "object";
}

bool Value::same_object(const Value& other) const {
  if (data_.index() != other.data_.index()) return false;
  if (is_undefined()) return false;
  if (is_none()) return true;
  if (is_number()) return number() == other.number();
  // Python shares equal short strings, so `is` on them is, in practice, equality.
  if (is_string()) return *string() == *other.string();
  return data_.index() == other.data_.index() && sequence() == other.sequence() && dict() == other.dict() &&
         name_space() == other.name_space() && loop() == other.loop() && function() == other.function();
}

const Value* Dict::find(const Value& key, Work& work) const {
  work.spend_elements(entries.size());
  for (const auto& [name, value] : entries)
    if (equal(name, key, work)) return &value;
  return nullptr;
}

const Value* Dict::find_name(std::string_view key, Work& work) const {
  work.spend_elements(entries.size());
  for (const auto& [name, value] : entries)
    if (name.is_string() && *name.string() == key) return &value;
  return nullptr;
}

void Dict::set(const Value& key, Value value, Work& work) {
  const bool list = key.sequence() != nullptr && key.sequence()->kind != Sequence::Kind::tuple;
  if (list || key.dict() != nullptr) fail("a {} cannot be the key of a dict", key.type_name());
  height = std::max({height, value.height() + 1, key.height() + 1});
  work.spend_elements(entries.size());
  for (auto& [name, old] : entries) {
    if (equal(name, key, work)) {
      old = std::move(value);
      return;
    }
  }
  entries.emplace_back(key, std::move(value));
}

Value from_json(const Json& json, Work& work) {
  work.spend_elements(1);
  switch (json.type()) {
    case Json::value_t::boolean:
      return json.get<bool>();
    case Json::value_t::number_integer:
      return json.get<std::int64_t>();
    case Json::value_t::number_unsigned:
      if (json.get<std::uint64_t>() > static_cast<std::uint64_t>(INT64_MAX))
        return static_cast<double>(json.get<std::uint64_t>());
      return json.get<std::int64_t>();
    case Json::value_t::number_float:
      return json.get<double>();
    case Json::value_t::string: {
      const auto& text = json.get_ref<const std::string&>();
      work.spend(text.size());
      std::string valid;  // what a person typed may be anything
      append_lossy(valid, text, true);
      return valid;
    }
    case Json::value_t::array: {
      Sequence list;
      for (const Json& element : json) list.items.push_back(from_json(element, work));
      return list;
    }
    case Json::value_t::object: {
      Dict dict;
      for (const auto& [key, element] : json.items()) {
        Value value = from_json(element, work);
        dict.height = std::max(dict.height, value.height() + 1);
        dict.entries.emplace_back(Value(key), std::move(value));  // the parser has made the keys unique
      }
      return dict;
    }
    default:
      return None{};
  }
}

bool equal(const Value& left, const Value& right, Work& work) {
  if (left.is_number() && right.is_number()) {
    if (!left.is_float() && !right.is_float()) return left.integer() == right.integer();
    return left.number() == right.number();
  }
  if (left.is_string() && right.is_string()) {
    if (left.string()->size() != right.string()->size()) return false;
    work.spend(left.string()->size());
    return *left.string() == *right.string();
  }
  if (left.is_undefined() || left.is_none())
    return left.is_undefined() == right.is_undefined() && left.is_none() == right.is_none();
  if (const Sequence* a = left.sequence(), *b = right.sequence(); a != nullptr && b != nullptr) {
    if (a == b) return true;
    if (a->kind != b->kind || a->items.size() != b->items.size() || a->kind == Sequence::Kind::generator)
      return false;
    work.spend_elements(a->items.size());
    for (std::size_t i = 0; i < a->items.size(); i++)
      if (!equal(a->items[i], b->items[i], work)) return false;
    return true;
  }
  if (const Dict* a = left.dict(), *b = right.dict(); a != nullptr && b != nullptr) {
    if (a == b) return true;
    if (a->entries.size() != b->entries.size()) return false;
    for (const auto& [key, value] : a->entries) {
      const Value* other = b->find(key, work);
      if (other == nullptr || !equal(value, *other, work)) return false;
    }
    return true;
  }
  return !left.is_number() && !left.is_string() && left.same_object(right);
}

std::partial_ordering compare(const Value& left, const Value& right, Work& work) {
  if (left.is_undefined()) fail("{}", left.what());
  if (right.is_undefined()) fail("{}", right.what());
  if (left.is_number() && right.is_number()) {
    if (!left.is_float() && !right.is_float()) return left.integer() <=> right.integer();
    return left.number() <=> right.number();
  }
  if (left.is_string() && right.is_string()) {  // the bytes of UTF-8 sort as its characters do
    work.spend(std::min(left.string()->size(), right.string()->size()));
    return *left.string() <=> *right.string();
  }
  const Sequence *a = left.sequence(), *b = right.sequence();
  if (a != nullptr && b != nullptr && a->kind == b->kind &&
      (a->kind == Sequence::Kind::list || a->kind == Sequence::Kind::tuple)) {
    const std::size_t shared = std::min(a->items.size(), b->items.size());
    work.spend_elements(shared);
    for (std::size_t i = 0; i < shared; i++)
      if (!equal(a->items[i], b->items[i], work)) return compare(a->items[i], b->items[i], work);
    return a->items.size() <=> b->items.size();
  }
  fail("'{}' and '{}' cannot be ordered", left.type_name(), right.type_name());
}

bool contains(const Value& container, const Value& element, Work& work) {
  if (const auto* text = container.string()) {
    if (element.is_undefined()) fail("{}", element.what());
    if (!element.is_string()) fail("'in <string>' needs a string on the left, not '{}'", element.type_name());
    // std::string::find is quadratic at worst ("aaa...ab" in "aaa...a"), so the product is what it costs.
    work.spend(text->size() + (text->size() / 64) * element.string()->size());
    return text->find(*element.string()) != std::string::npos;
  }
  if (const auto* map = container.dict()) return map->find(element, work) != nullptr;
  for (const Value& candidate : elements(container, work))
    if (equal(candidate, element, work)) return true;
  return false;
}

std::vector<Value> elements(const Value& value, Work& work) {
  if (value.is_undefined()) return {};
  if (const auto* list = value.sequence()) {
    work.spend_elements(list->items.size());
    if (list->kind == Sequence::Kind::generator && std::exchange(list->consumed, true)) return {};
    return list->items;
  }
  std::vector<Value> result;
  if (const auto* map = value.dict()) {
    work.spend_elements(map->entries.size());
    for (const auto& entry : map->entries) result.push_back(entry.first);
    return result;
  }
  if (const auto* text = value.string()) {
    work.spend_elements(text->size() * 3);  // a string each
    for (const char32_t c : decode_utf8(*text)) result.emplace_back(encode_utf8(c));
    return result;
  }
  fail("'{}' cannot be iterated over", value.type_name());
}

std::int64_t length(const Value& value, Work& work) {
  if (value.is_undefined()) return 0;
  if (const auto* text = value.string()) {
    work.spend(text->size());
    return static_cast<std::int64_t>(count_characters(*text));
  }
  if (const auto* map = value.dict()) return static_cast<std::int64_t>(map->entries.size());
  const auto* list = value.sequence();
  if (list == nullptr || list->kind == Sequence::Kind::generator)
    fail("'{}' has no length", value.type_name());
  return static_cast<std::int64_t>(list->items.size());
}

}  // namespace fathom::jinja
