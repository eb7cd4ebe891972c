// Runs a template's tree.
#pragma once

#include <functional>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "base/json.h"
#include "text/jinja/library.h"
#include "text/jinja/parser.h"
#include "text/jinja/value.h"

namespace fathom::jinja {

/// One rendering.
class Interpreter {
 public:
  ~Interpreter();
  Interpreter() = default;
  Interpreter(const Interpreter&) = delete;
  Interpreter& operator=(const Interpreter&) = delete;

  /// The text of the tree with the variables of `context`, an object. Throws Error naming the template's
  /// line.
  std::string render(const Node& root, const Json& context);
  /// Where in that text the generation blocks stand: begin and end of each. Of a block in a macro, where it
  /// stands if the macro's text is printed, as it is, where it is called.
  const std::vector<std::pair<std::size_t, std::size_t>>& generated() const { return generated_; }

  // For builtins that call others or make values.
  Work& work() { return work_; }
  Value apply_filter(const std::string& name, const Value& input, Arguments arguments);
  bool apply_test(const std::string& name, const Value& input, Arguments arguments);
  /// object.name and object[key], undefined if there is no such thing. Throw Error on undefined objects.
  Value attribute(const Value& object, const std::string& name);
  Value item(const Value& object, const Value& key);
  /// "a.b.0" of an object, as filters with attributes take it.
  /// Undefined steps become `fallback`.
  Value path(const Value& object, const Value& attribute, const Value& fallback = Undefined{});
  Value new_namespace(Dict fields);

 private:
  enum class Flow { next, leave_loop, next_iteration };
  using ScopePtr = std::shared_ptr<Scope>;
  class ScopeEntry;

  /// One level of recursion, and one step of work.
  class Depth {
   public:
    explicit Depth(Interpreter& interpreter);
    ~Depth() { depth_--; }
    Depth(const Depth&) = delete;
    Depth& operator=(const Depth&) = delete;

   private:
    int& depth_;
  };

  // Statements
  Flow run(const Node& node);
  Flow run_body(const Node& node);
  Flow run_loop(const Node& node);
  Flow run_in_scope(const Node& body);
  void run_with(const Node& node);
  void run_set_block(const Node& node);
  std::vector<Value> loop_items(const Node& node);
  /// What `body` prints.
  std::string captured(const std::function<void()>& body);
  void write(std::string_view text);
  void assign(const Node& target, Value value);
  Value call_macro(const Function& macro, Arguments arguments);

  // Expressions
  Value evaluate(const Node& node);
  Value evaluate_binary(const Node& node);
  Value evaluate_comparison(const Node& node);
  Value evaluate_slice(const Node& node);
  Value evaluate_list(const Node& node, Sequence::Kind kind);
  Value evaluate_dict(const Node& node);
  Value evaluate_filter(const Node& node, const Value& input);
  Value evaluate_call(const Node& node, Value caller = Undefined{});
  Value look_up(const std::string& name) const;
  Arguments evaluate_arguments(const Node& node);
  Value call(const Value& function, Arguments arguments);

  Work work_;
  ScopePtr scope_;
  std::vector<std::shared_ptr<Namespace>> namespaces_;
  std::string output_;
  std::size_t outer_size_ = 0;  ///< of what was printed around the text being captured
  std::vector<std::pair<std::size_t, std::size_t>> generated_;
  int depth_ = 0;  ///< of the recursion
  int line_ = 0;
};

/// left OPERATOR right for + - * / // % **. Throws Error for types that do not go together, and for integers
/// beyond 64 bits.
Value arithmetic(const std::string& symbol, const Value& left, const Value& right, Work& work);

}  // namespace fathom::jinja
