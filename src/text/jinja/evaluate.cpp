// Expressions.
#include <algorithm>
#include <charconv>
#include <cmath>

#include "base/error.h"
#include "text/jinja/interpreter.h"
#include "text/jinja/text.h"

namespace fathom::jinja {
namespace {

/// Python's slice.indices: where a slice of `size` elements starts and ends, in steps of `step`.
struct Range {
  std::int64_t start, stop, step;
};
Range slice_range(const Value& start, const Value& stop, const Value& step, std::int64_t size) {
  const auto integer_or = [](const Value& value, std::int64_t fallback) {
    if (value.is_none()) return fallback;
    if (!value.is_integer() && !value.is_bool()) fail("a slice needs integers, not '{}'", value.type_name());
    return value.integer();
  };
  const std::int64_t by = integer_or(step, 1);
  if (by == 0) fail("a slice's step is 0");
  const std::int64_t least = by > 0 ? 0 : -1, most = by > 0 ? size : size - 1;
  const auto place = [&](std::int64_t at) { return std::clamp(at < 0 ? at + size : at, least, most); };
  const std::int64_t from = start.is_none() ? (by > 0 ? least : most) : place(integer_or(start, 0));
  const std::int64_t to = stop.is_none() ? (by > 0 ? most : least) : place(integer_or(stop, 0));
  return {from, to, std::clamp(by, -size - 1, size + 1)};
}

template <typename Take>
void for_range(const Range& range, const Take& take) {
  for (std::int64_t i = range.start; range.step > 0 ? i < range.stop : i > range.stop; i += range.step)
    take(static_cast<std::size_t>(i));
}

Value loop_attribute(const Loop& loop, const std::string& name) {
  const auto count = static_cast<std::int64_t>(loop.items->size());
  const auto index = static_cast<std::int64_t>(loop.index);
  if (name == "index") return index + 1;
  if (name == "index0") return index;
  if (name == "revindex") return count - index;
  if (name == "revindex0") return count - index - 1;
  if (name == "first") return index == 0;
  if (name == "last") return index + 1 == count;
  if (name == "length") return count;
  if (name == "depth") return std::int64_t{1};  // only recursive loops, which are refused, go deeper
  if (name == "depth0") return std::int64_t{0};
  if (name == "previtem")
    return index > 0 ? (*loop.items)[loop.index - 1] : Value(Undefined{"there is no previous item"});
  if (name == "nextitem")
    return index + 1 < count ? (*loop.items)[loop.index + 1] : Value(Undefined{"there is no next item"});
  return Undefined{fmt::format("'loop' has no attribute '{}'", name)};
}

}  // namespace

Value Interpreter::look_up(const std::string& name) const {
  for (const Scope* scope = scope_.get(); scope != nullptr; scope = scope->parent.get()) {
    const auto found = scope->variables.find(name);
    if (found != scope->variables.end()) return found->second;
  }
  if (globals().contains(name)) return Function{name, Undefined{}, nullptr, nullptr};
  return Undefined{fmt::format("'{}' is undefined", name)};
}

Value Interpreter::attribute(const Value& object, const std::string& name) {
  if (object.is_undefined()) fail("{} (its attribute '{}' is asked for)", object.what(), name);
  if (const Loop* loop = object.loop(); loop != nullptr && name != "cycle")
    return loop_attribute(*loop, name);
  if (const Namespace* space = object.name_space()) {
    if (const Value* field = space->fields.find_name(name, work_)) return *field;
  }
  const Builtins* methods = methods_of(object);
  if (methods != nullptr && methods->contains(name)) return Function{name, object, nullptr, nullptr};
  if (const Dict* dict = object.dict()) {
    if (const Value* value = dict->find_name(name, work_)) return *value;
  }
  return Undefined{fmt::format("'{}' has no attribute '{}'", object.type_name(), name)};
}

Value Interpreter::item(const Value& object, const Value& key) {
  if (object.is_undefined()) fail("{} (an element of it is asked for)", object.what());
  if (const Dict* dict = object.dict()) {
    if (const Value* value = dict->find(key, work_)) return *value;
  } else if (key.is_integer() || key.is_bool()) {
    const Sequence* list = object.sequence();
    const bool indexed = list != nullptr && !list->is_view() && list->kind != Sequence::Kind::generator;
    if (object.is_string() || indexed) {
      const std::int64_t size = length(object, work_);
      const std::int64_t at = key.integer() < 0 ? key.integer() + size : key.integer();
      if (at >= 0 && at < size) {
        if (indexed) return list->items[static_cast<std::size_t>(at)];
        return encode_utf8(decode_utf8(*object.string())[static_cast<std::size_t>(at)]);
      }
    }
  }
  if (key.is_string()) return attribute(object, *key.string());
  return Undefined{fmt::format("'{}' has no element {}", object.type_name(), to_repr(key, work_))};
}

Value Interpreter::path(const Value& object, const Value& attribute, const Value& fallback) {
  const auto or_fallback = [&](const Value& value) {
    return value.is_undefined() && !fallback.is_undefined() ? fallback : value;
  };
  if (!attribute.is_string()) return or_fallback(item(object, attribute));
  Value value = object;
  for (const std::string& part : split(*attribute.string(), ".", -1, false)) {
    std::int64_t index = 0;
    const auto parsed = std::from_chars(part.data(), part.data() + part.size(), index);
    const bool number = parsed.ec == std::errc() && parsed.ptr == part.data() + part.size() && index >= 0;
    value = or_fallback(item(value, number ? Value(index) : Value(part)));
  }
  return value;
}

Arguments Interpreter::evaluate_arguments(const Node& node) {
  Arguments arguments;
  for (const Argument& argument : node.arguments) {
    Value value = evaluate(*argument.value);
    if (argument.spread == Argument::Spread::sequence) {
      for (Value& element : elements(value, work_)) arguments.positional.push_back(std::move(element));
    } else if (argument.spread == Argument::Spread::dict) {
      const Dict* dict = value.dict();
      if (dict == nullptr) fail("** needs a dict, not '{}'", value.type_name());
      for (const auto& [key, element] : dict->entries)
        arguments.named.emplace_back(to_text(key, work_), element);
    } else if (!argument.keyword.empty()) {
      arguments.named.emplace_back(argument.keyword, std::move(value));
    } else {
      arguments.positional.push_back(std::move(value));
    }
  }
  return arguments;
}

Value Interpreter::call(const Value& function, Arguments arguments) {
  if (function.is_undefined()) fail("{} (it is called)", function.what());
  const Function* callable = function.function();
  if (callable == nullptr) fail("'{}' cannot be called", function.type_name());
  if (callable->macro != nullptr) return call_macro(*callable, std::move(arguments));
  const Builtins* methods = methods_of(callable->self);
  const Builtins& table = methods != nullptr ? *methods : globals();
  return run_builtin(table.at(callable->name), *this, callable->name, callable->self, std::move(arguments));
}

Value Interpreter::evaluate_call(const Node& node, Value caller) {
  const Value function = evaluate(*node.children[0]);
  Arguments arguments = evaluate_arguments(node);
  line_ = node.line;
  if (!caller.is_undefined()) arguments.named.emplace_back("caller", std::move(caller));
  return call(function, std::move(arguments));
}

Value Interpreter::apply_filter(const std::string& name, const Value& input, Arguments arguments) {
  const auto found = filters().find(name);
  if (found == filters().end()) fail("the filter '{}' is not supported", name);
  return run_builtin(found->second, *this, name, input, std::move(arguments));
}

bool Interpreter::apply_test(const std::string& name, const Value& input, Arguments arguments) {
  const auto found = tests().find(name);
  if (found == tests().end()) fail("the test '{}' is not supported", name);
  return run_builtin(found->second, *this, name, input, std::move(arguments)).truth();
}

Value Interpreter::evaluate_filter(const Node& node, const Value& input) {
  const Depth depth(*this);
  // In a filter block the innermost filter of a chain has no child: the block's text goes in there.
  const NodePtr& child = node.children[0];
  const Value value = child == nullptr                  ? input
                      : child->kind == NodeKind::filter ? evaluate_filter(*child, input)
                                                        : evaluate(*child);
  Arguments arguments = evaluate_arguments(node);
  line_ = node.line;
  return apply_filter(node.name, value, std::move(arguments));
}

Value Interpreter::evaluate_list(const Node& node, Sequence::Kind kind) {
  Sequence list({}, kind);
  for (const NodePtr& child : node.children) list.items.push_back(evaluate(*child));
  return list;
}

Value Interpreter::evaluate_dict(const Node& node) {
  Dict dict;
  for (std::size_t i = 0; i < node.children.size(); i += 2) {
    const Value key = evaluate(*node.children[i]);
    dict.set(key, evaluate(*node.children[i + 1]), work_);
  }
  return dict;
}

Value Interpreter::evaluate_slice(const Node& node) {
  const auto part = [&](std::size_t i) {
    return node.children[i] == nullptr ? Value(None{}) : evaluate(*node.children[i]);
  };
  const Value object = part(0), start = part(1), stop = part(2), step = part(3);
  if (object.is_undefined()) fail("{} (a slice of it is asked for)", object.what());
  if (const std::string* text = object.string()) {
    work_.spend(text->size() * 4);
    const std::u32string characters = decode_utf8(*text);
    std::u32string taken;
    for_range(slice_range(start, stop, step, std::ssize(characters)),
              [&](std::size_t i) { taken += characters[i]; });
    return encode_utf8(taken);
  }
  const Sequence* list = object.sequence();
  if (list == nullptr || list->is_view() || list->kind == Sequence::Kind::generator)
    fail("'{}' cannot be sliced", object.type_name());
  Sequence taken({}, list->kind);
  work_.spend_elements(list->items.size());
  for_range(slice_range(start, stop, step, std::ssize(list->items)),
            [&](std::size_t i) { taken.items.push_back(list->items[i]); });
  return taken;
}

Value Interpreter::evaluate_binary(const Node& node) {
  const Value left = evaluate(*node.children[0]);
  if (node.name == "and") return left.truth() ? evaluate(*node.children[1]) : left;
  if (node.name == "or") return left.truth() ? left : evaluate(*node.children[1]);
  const Value right = evaluate(*node.children[1]);
  line_ = node.line;
  return arithmetic(node.name, left, right, work_);
}

Value Interpreter::evaluate_comparison(const Node& node) {
  Value left = evaluate(*node.children[0]);
  for (std::size_t i = 0; i < node.operators.size(); i++) {
    const std::string& symbol = node.operators[i];
    Value right = evaluate(*node.children[i + 1]);
    bool holds = false;
    if (symbol == "==" || symbol == "!=") {
      holds = equal(left, right, work_) == (symbol == "==");
    } else if (symbol == "in" || symbol == "not in") {
      holds = contains(right, left, work_) == (symbol == "in");
    } else {
      const std::partial_ordering order = compare(left, right, work_);
      holds = (order == std::partial_ordering::less && symbol[0] == '<') ||
              (order == std::partial_ordering::greater && symbol[0] == '>') ||
              (order == std::partial_ordering::equivalent && symbol.size() == 2);
    }
    if (!holds) return false;
    left = std::move(right);
  }
  return true;
}

Value Interpreter::evaluate(const Node& node) {
  const Depth depth(*this);
  switch (node.kind) {
    case NodeKind::constant:
      return node.value;
    case NodeKind::name:
      return look_up(node.name);
    case NodeKind::list:
      return evaluate_list(node, Sequence::Kind::list);
    case NodeKind::tuple:
      return evaluate_list(node, Sequence::Kind::tuple);
    case NodeKind::dict:
      return evaluate_dict(node);
    case NodeKind::attribute: {
      const Value object = evaluate(*node.children[0]);
      line_ = node.line;
      return attribute(object, node.name);
    }
    case NodeKind::subscript: {
      const Value object = evaluate(*node.children[0]);
      const Value key = evaluate(*node.children[1]);
      line_ = node.line;
      return item(object, key);
    }
    case NodeKind::slice:
      return evaluate_slice(node);
    case NodeKind::call:
      return evaluate_call(node);
    case NodeKind::filter:
      return evaluate_filter(node, Undefined{});
    case NodeKind::test: {
      const Value input = evaluate(*node.children[0]);
      Arguments arguments = evaluate_arguments(node);
      line_ = node.line;
      return apply_test(node.name, input, std::move(arguments));
    }
    case NodeKind::unary: {
      const Value operand = evaluate(*node.children[0]);
      if (node.name == "not") return !operand.truth();
      const Value negative = arithmetic("-", std::int64_t{0}, operand, work_);
      return node.name == "-" ? negative : operand;
    }
    case NodeKind::binary:
      return evaluate_binary(node);
    case NodeKind::concatenate: {
      std::string text;
      for (const NodePtr& child : node.children) text += to_text(evaluate(*child), work_);
      return text;
    }
    case NodeKind::comparison:
      return evaluate_comparison(node);
    case NodeKind::conditional:
      if (evaluate(*node.children[0]).truth()) return evaluate(*node.children[1]);
      if (node.children[2] != nullptr) return evaluate(*node.children[2]);
      return Undefined{"a conditional expression without 'else' is false"};
    default:
      fail("a statement stands where an expression is expected");
  }
}

}  // namespace fathom::jinja
