// Statements.
#include "text/jinja/interpreter.h"

#include <algorithm>

#include "base/error.h"

namespace fathom::jinja {
namespace {

// A level costs at most some 1 KB of stack, and Node and Value recursion stays within it.
constexpr int max_depth = 1000;

constexpr std::size_t step_cost = 32;  // of a statement or an expression, in Work's units

}  // namespace

/// A scope that ends with the block. Its variables go with it: a macro among them refers back to the scope.
class Interpreter::ScopeEntry {
 public:
  ScopeEntry(Interpreter& interpreter, ScopePtr parent)
      : interpreter_(interpreter), outer_(std::move(interpreter.scope_)) {
    interpreter.scope_ = std::make_shared<Scope>();
    interpreter.scope_->parent = std::move(parent);
  }
  explicit ScopeEntry(Interpreter& interpreter) : ScopeEntry(interpreter, interpreter.scope_) {}
  ~ScopeEntry() {
    interpreter_.scope_->variables.clear();
    interpreter_.scope_ = std::move(outer_);
  }
  ScopeEntry(const ScopeEntry&) = delete;
  ScopeEntry& operator=(const ScopeEntry&) = delete;

 private:
  Interpreter& interpreter_;
  ScopePtr outer_;
};

Interpreter::Depth::Depth(Interpreter& interpreter) : depth_(interpreter.depth_) {
  interpreter.work_.spend(step_cost);
  if (depth_ >= max_depth) fail("macros or expressions nest too deep");
  depth_++;
}

Interpreter::~Interpreter() {
  // A namespace may contain itself.
  for (const auto& space : namespaces_) space->fields.entries.clear();
}

std::string Interpreter::render(const Node& root, const Json& context) {
  const ScopeEntry entry(*this, nullptr);
  try {
    if (!context.is_object()) fail("the context is no JSON object");
    for (const auto& [name, value] : context.items()) scope_->variables[name] = from_json(value, work_);
    run(root);
  } catch (const Error& e) {
    fail("chat template, line {}: {}", line_, e.what());
  }
  return std::move(output_);
}

Value Interpreter::new_namespace(Dict fields) {
  work_.spend(step_cost);
  namespaces_.push_back(std::make_shared<Namespace>());
  namespaces_.back()->fields = std::move(fields);
  return namespaces_.back();
}

void Interpreter::write(std::string_view text) {
  work_.spend(text.size());
  output_ += text;
}

std::string Interpreter::captured(const std::function<void()>& body) {
  std::string outer = std::exchange(output_, "");
  outer_size_ += outer.size();
  body();
  outer_size_ -= outer.size();
  return std::exchange(output_, std::move(outer));
}

Interpreter::Flow Interpreter::run_in_scope(const Node& body) {
  const ScopeEntry entry(*this);
  return run(body);
}

Interpreter::Flow Interpreter::run_body(const Node& node) {
  for (const NodePtr& statement : node.children) {
    const Flow flow = run(*statement);
    if (flow != Flow::next) return flow;
  }
  return Flow::next;
}

Interpreter::Flow Interpreter::run(const Node& node) {
  const Depth depth(*this);
  line_ = node.line;
  switch (node.kind) {
    case NodeKind::body:
      return run_body(node);
    case NodeKind::text:
      write(*node.value.string());
      break;
    case NodeKind::output:
      write(to_text(evaluate(*node.children[0]), work_));
      break;
    case NodeKind::branch:
      for (std::size_t i = 0; i + 1 < node.children.size(); i += 2)
        if (evaluate(*node.children[i]).truth()) return run(*node.children[i + 1]);
      if (node.children.back() != nullptr) return run(*node.children.back());
      break;
    case NodeKind::loop:
      return run_loop(node);
    case NodeKind::set:
      assign(*node.children[0], evaluate(*node.children[1]));
      break;
    case NodeKind::set_block:
      run_set_block(node);
      break;
    case NodeKind::macro:
      scope_->variables[node.name] = Function{node.name, Undefined{}, &node, scope_};
      break;
    case NodeKind::call_block: {
      const Node& body = *node.children[1];
      write(
          to_text(evaluate_call(*node.children[0], Function{body.name, Undefined{}, &body, scope_}), work_));
      break;
    }
    case NodeKind::filter_block:
      write(to_text(evaluate_filter(*node.children[0], captured([&] { run_in_scope(*node.children[1]); })),
                    work_));
      break;
    case NodeKind::with:
      run_with(node);
      break;
    case NodeKind::generation: {
      const std::size_t begin = outer_size_ + output_.size();
      const Flow flow = run_in_scope(*node.children[0]);
      generated_.push_back({begin, outer_size_ + output_.size()});
      return flow;
    }
    case NodeKind::leave_loop:
      return Flow::leave_loop;
    case NodeKind::next_iteration:
      return Flow::next_iteration;
    default:
      fail("an expression stands where a statement is expected");
  }
  return Flow::next;
}

void Interpreter::run_set_block(const Node& node) {
  Value value = captured([&] { run_in_scope(*node.children[2]); });
  if (node.children[1] != nullptr) value = evaluate_filter(*node.children[1], value);
  assign(*node.children[0], std::move(value));
}

void Interpreter::run_with(const Node& node) {
  std::vector<Value> values;  // all of them see the outer scope
  for (std::size_t i = 1; i < node.children.size(); i += 2) values.push_back(evaluate(*node.children[i]));
  const ScopeEntry entry(*this);
  for (std::size_t i = 0; i < values.size(); i++) assign(*node.children[2 * i], std::move(values[i]));
  run(*node.children.back());
}

std::vector<Value> Interpreter::loop_items(const Node& node) {
  std::vector<Value> items = elements(evaluate(*node.children[1]), work_);
  if (node.children[2] == nullptr) return items;
  std::erase_if(items, [&](const Value& value) {
    const ScopeEntry entry(*this);
    assign(*node.children[0], value);
    return !evaluate(*node.children[2]).truth();
  });
  return items;
}

Interpreter::Flow Interpreter::run_loop(const Node& node) {
  const auto items = std::make_shared<const std::vector<Value>>(loop_items(node));
  if (items->empty()) return node.children[4] != nullptr ? run_in_scope(*node.children[4]) : Flow::next;
  int height = 0;
  for (const Value& value : *items) height = std::max(height, value.height());
  if (height >= max_height) fail("values nest deeper than {} levels", max_height);
  for (std::size_t i = 0; i < items->size(); i++) {
    work_.spend_elements(8);  // the scope and what is in it
    const ScopeEntry entry(*this);
    scope_->variables["loop"] = std::make_shared<const Loop>(Loop{items, i, height + 1});
    assign(*node.children[0], (*items)[i]);
    if (run(*node.children[3]) == Flow::leave_loop) break;
  }
  return Flow::next;
}

void Interpreter::assign(const Node& target, Value value) {
  switch (target.kind) {
    case NodeKind::name:
      scope_->variables[target.name] = std::move(value);
      break;
    case NodeKind::namespace_field: {
      Namespace* space = look_up(target.name).name_space();
      if (space == nullptr) fail("'{}' is no namespace: its attributes cannot be set", target.name);
      if (target.field.starts_with('_'))
        fail("'{}': names in a namespace may not begin with _", target.field);
      space->fields.set(target.field, std::move(value), work_);
      break;
    }
    default: {
      const std::vector<Value> parts = elements(value, work_);
      if (parts.size() != target.children.size())
        fail("{} values are to be unpacked into {} names", parts.size(), target.children.size());
      for (std::size_t i = 0; i < parts.size(); i++) assign(*target.children[i], parts[i]);
    }
  }
}

Value Interpreter::call_macro(const Function& macro, Arguments arguments) {
  const Depth depth(*this);
  const auto& parameters = macro.macro->parameters;
  if (arguments.positional.size() > parameters.size())
    fail("macro '{}' takes at most {} arguments, got {}", macro.name, parameters.size(),
         arguments.positional.size());
  return captured([&] {
    const ScopeEntry entry(*this, macro.scope);
    for (auto& [name, value] : arguments.named) {
      const auto found = std::find_if(parameters.begin(), parameters.end(),
                                      [&, &keyword = name](const auto& p) { return p.name == keyword; });
      if (found == parameters.end() && name != "caller")
        fail("macro '{}' has no parameter '{}'", macro.name, name);
      const bool twice =
          found != parameters.end() && found - parameters.begin() < std::ssize(arguments.positional);
      if (twice) fail("macro '{}' got two values for '{}'", macro.name, name);
      scope_->variables[found == parameters.end() ? std::string_view("caller")
                                                  : std::string_view(found->name)] = std::move(value);
    }
    for (std::size_t i = 0; i < parameters.size(); i++) {
      const Parameter& parameter = parameters[i];
      if (i < arguments.positional.size()) {
        scope_->variables[parameter.name] = std::move(arguments.positional[i]);
      } else if (!scope_->variables.contains(parameter.name)) {
        scope_->variables[parameter.name] =
            parameter.fallback != nullptr
                ? evaluate(*parameter.fallback)
                : Value(Undefined{fmt::format("parameter '{}' was not provided", parameter.name)});
      }
    }
    run(*macro.macro->children[0]);
  });
}

}  // namespace fathom::jinja
