// Statements.
#include "text/jinja/parser.h"

#include <utility>

#include "text/jinja/expressions.h"

namespace fathom::jinja {
namespace {

class Parser : ExpressionParser {
 public:
  explicit Parser(std::string_view source) : ExpressionParser(source) {}

  NodePtr run() {
    NodePtr root = parse_body({});
    if (peek().kind != TokenKind::end) fail_here(fmt::format("unexpected '{}'", shown()));
    return root;
  }

 private:
  /// Statements up to (not including) a tag named in `ends`, whose block_begin is taken.
  NodePtr parse_body(std::initializer_list<std::string_view> ends) {
    const Nesting nesting(*this);
    Draft body = draft(NodeKind::body);
    for (;;) {
      switch (peek().kind) {
        case TokenKind::data: {
          Draft text = draft(NodeKind::text);
          text->value = peek().text;
          at_++;
          add(*body, std::move(text));
          break;
        }
        case TokenKind::expression_begin:
          at_++;
          add(*body, make(NodeKind::output, "", parse_tuple(true)));
          expect(TokenKind::expression_end, "'}}'");
          break;
        case TokenKind::block_begin:
          at_++;
          for (const std::string_view end : ends)
            if (is_name(end)) return body;
          add(*body, parse_statement());
          expect(TokenKind::block_end, "'%}'");
          break;
        default:
          if (ends.size() > 0)
            fail_here(fmt::format("expected '{{% {} %}}', found {}", *(ends.end() - 1), shown()));
          return body;
      }
    }
  }

  /// The end of an opening tag, its body, and the closing tag but for its end.
  NodePtr parse_block(std::string_view end) {
    skip_symbol(":");
    expect(TokenKind::block_end, "'%}'");
    NodePtr body = parse_body({end});
    at_++;
    return body;
  }

  NodePtr parse_statement() {
    const std::string tag = expect_name();
    if (tag == "if") return parse_if();
    if (tag == "for") return parse_for();
    if (tag == "set") return parse_set();
    if (tag == "macro") return parse_macro();
    if (tag == "call") return parse_call_block();
    if (tag == "with") return parse_with();
    if (tag == "generation") return make(NodeKind::generation, "", parse_block("endgeneration"));
    if (tag == "filter") {
      NodePtr filter = parse_filters(nullptr, true);
      return make(NodeKind::filter_block, "", std::move(filter), parse_block("endfilter"));
    }
    if (tag == "break" || tag == "continue") {
      if (loops_ == 0) fail_here(fmt::format("'{}' stands outside a loop", tag));
      return make(tag == "break" ? NodeKind::leave_loop : NodeKind::next_iteration, "");
    }
    at_--;
    fail_here(fmt::format("the tag '{}' is not supported", tag));
  }

  NodePtr parse_if() {
    Draft node = draft(NodeKind::branch);
    for (;;) {
      add(*node, parse_tuple(false));
      skip_symbol(":");
      expect(TokenKind::block_end, "'%}'");
      add(*node, parse_body({"elif", "else", "endif"}));
      if (skip_name("elif")) continue;
      const bool otherwise = is_name("else");
      at_++;
      add(*node, otherwise ? parse_block("endif") : nullptr);
      return node;
    }
  }

  NodePtr parse_for() {
    Draft node = draft(NodeKind::loop);
    add(*node, parse_target(false));
    if (!skip_name("in")) fail_here(fmt::format("expected 'in', found '{}'", shown()));
    add(*node, parse_tuple(false));
    add(*node, skip_name("if") ? parse_expression() : nullptr);
    if (is_name("recursive")) fail_here("recursive loops are not supported");
    skip_symbol(":");
    expect(TokenKind::block_end, "'%}'");
    loops_++;
    add(*node, parse_body({"else", "endfor"}));
    loops_--;
    const bool otherwise = is_name("else");
    at_++;
    add(*node, otherwise ? parse_block("endfor") : nullptr);
    return node;
  }

  NodePtr parse_set() {
    NodePtr target = parse_target(true);
    if (skip_symbol("=")) return make(NodeKind::set, "", std::move(target), parse_tuple(true));
    NodePtr filter = is_symbol("|") ? parse_filters(nullptr, false) : nullptr;
    return make(NodeKind::set_block, "", std::move(target), std::move(filter), parse_block("endset"));
  }

  /// a | a.b | (a, b) | a, b
  NodePtr parse_target(bool with_field) {
    std::vector<NodePtr> targets;
    bool tuple = false;
    do {
      if (!targets.empty() && peek().kind != TokenKind::name && !is_symbol("(")) break;  // "a, ="
      targets.push_back(parse_single_target(with_field));
      tuple = tuple || is_symbol(",");
    } while (skip_symbol(","));
    if (!tuple) return std::move(targets.front());
    Draft node = draft(NodeKind::tuple);
    for (NodePtr& target : targets) add(*node, std::move(target));
    return node;
  }

  NodePtr parse_single_target(bool with_field) {
    const Nesting nesting(*this);
    if (skip_symbol("(")) {
      NodePtr inner = parse_target(with_field);
      expect_symbol(")");
      return inner;
    }
    const std::string name = expect_name();
    if (!with_field || !skip_symbol(".")) return make(NodeKind::name, name);
    Draft node = draft(NodeKind::namespace_field, name);
    node->field = expect_name();
    return node;
  }

  void parse_parameters(Node& macro) {
    expect_symbol("(");
    while (!skip_symbol(")")) {
      if (!macro.parameters.empty()) expect_symbol(",");
      Parameter parameter{expect_name(), nullptr};
      if (skip_symbol("=")) {
        parameter.fallback = parse_expression();
      } else if (!macro.parameters.empty() && macro.parameters.back().fallback != nullptr) {
        fail_here(
            fmt::format("parameter '{}' needs a default, as the one before it has one", parameter.name));
      }
      adopt(macro, parameter.fallback);
      macro.parameters.push_back(std::move(parameter));
    }
  }

  /// The body of a macro: a loop around the definition is not one that it may break.
  NodePtr parse_macro_body(std::string_view end) {
    const int loops = std::exchange(loops_, 0);
    NodePtr body = parse_block(end);
    loops_ = loops;
    return body;
  }

  NodePtr parse_macro() {
    Draft node = draft(NodeKind::macro, expect_name());
    parse_parameters(*node);
    add(*node, parse_macro_body("endmacro"));
    return node;
  }

  NodePtr parse_call_block() {
    Draft caller = draft(NodeKind::macro, "caller");
    if (is_symbol("(")) parse_parameters(*caller);
    NodePtr call = parse_expression();
    if (call->kind != NodeKind::call) fail_here("a call block needs the call of a macro");
    add(*caller, parse_macro_body("endcall"));
    return make(NodeKind::call_block, "", std::move(call), NodePtr(std::move(caller)));
  }

  NodePtr parse_with() {
    Draft node = draft(NodeKind::with);
    while (peek().kind != TokenKind::block_end) {
      if (!node->children.empty()) expect_symbol(",");
      add(*node, parse_single_target(false));
      expect_symbol("=");
      add(*node, parse_expression());
    }
    add(*node, parse_block("endwith"));
    return node;
  }

  int loops_ = 0;  // around the statement
};

}  // namespace

NodePtr parse(std::string_view source) { return Parser(source).run(); }

}  // namespace fathom::jinja
