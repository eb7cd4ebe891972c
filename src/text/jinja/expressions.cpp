#include "text/jinja/expressions.h"

namespace fathom::jinja {

NodePtr ExpressionParser::parse_tuple(bool with_conditional) {
  NodePtr first = with_conditional ? parse_expression() : parse_or();
  if (!is_symbol(",")) return first;
  Draft node = draft(NodeKind::tuple);
  add(*node, std::move(first));
  while (skip_symbol(",")) {
    const TokenKind kind = peek().kind;
    if (kind == TokenKind::expression_end || kind == TokenKind::block_end || is_symbol(")")) break;
    add(*node, with_conditional ? parse_expression() : parse_or());
  }
  return node;
}

NodePtr ExpressionParser::parse_expression() {
  const Nesting nesting(*this);
  NodePtr node = parse_or();
  while (skip_name("if")) {
    NodePtr condition = parse_or();
    NodePtr otherwise = skip_name("else") ? parse_expression() : nullptr;
    node = make(NodeKind::conditional, "", std::move(condition), std::move(node), std::move(otherwise));
  }
  return node;
}

NodePtr ExpressionParser::parse_or() {
  NodePtr node = parse_and();
  while (skip_name("or")) node = make(NodeKind::binary, "or", std::move(node), parse_and());
  return node;
}

NodePtr ExpressionParser::parse_and() {
  NodePtr node = parse_not();
  while (skip_name("and")) node = make(NodeKind::binary, "and", std::move(node), parse_not());
  return node;
}

NodePtr ExpressionParser::parse_not() {
  if (!skip_name("not")) return parse_comparison();
  const Nesting nesting(*this);
  return make(NodeKind::unary, "not", parse_not());
}

std::string ExpressionParser::take_comparison() {
  for (const std::string_view symbol : {"==", "!=", ">=", "<=", ">", "<"})
    if (skip_symbol(symbol)) return std::string(symbol);
  if (skip_name("in")) return "in";
  if (!is_name("not") || !is_name("in", 1)) return "";
  at_ += 2;
  return "not in";
}

NodePtr ExpressionParser::parse_comparison() {
  NodePtr first = parse_sum();
  std::string symbol = take_comparison();
  if (symbol.empty()) return first;
  Draft node = draft(NodeKind::comparison);
  add(*node, std::move(first));
  for (; !symbol.empty(); symbol = take_comparison()) {
    node->operators.push_back(symbol);
    add(*node, parse_sum());
  }
  return node;
}

NodePtr ExpressionParser::parse_sum() {
  return parse_chain({"+", "-"}, [this] { return parse_concatenation(); });
}

NodePtr ExpressionParser::parse_concatenation() {
  NodePtr first = parse_product();
  if (!is_symbol("~")) return first;
  Draft node = draft(NodeKind::concatenate);
  add(*node, std::move(first));
  while (skip_symbol("~")) add(*node, parse_product());
  return node;
}

NodePtr ExpressionParser::parse_product() {
  return parse_chain({"*", "/", "//", "%"},
                     [this] { return parse_chain({"**"}, [this] { return parse_unary(true); }); });
}

NodePtr ExpressionParser::parse_unary(bool with_filters) {
  NodePtr node;
  if (is_symbol("-") || is_symbol("+")) {
    const Nesting nesting(*this);
    const std::string sign = tokens_[at_++].text;
    node = make(NodeKind::unary, sign, parse_unary(false));
  } else {
    node = parse_primary();
  }
  node = parse_postfix(std::move(node));
  return with_filters ? parse_filters_and_tests(std::move(node)) : std::move(node);
}

NodePtr ExpressionParser::parse_primary() {
  const Token& token = peek();
  switch (token.kind) {
    case TokenKind::name:
      at_++;
      return parse_name(token.text);
    case TokenKind::string: {
      std::string text;  // neighbours are one string
      while (peek().kind == TokenKind::string) text += tokens_[at_++].text;
      return constant(std::move(text));
    }
    case TokenKind::integer:
      at_++;
      return constant(number_of<std::int64_t>(token));
    case TokenKind::real:
      at_++;
      return constant(number_of<double>(token));
    default:
      break;
  }
  const Nesting nesting(*this);
  if (skip_symbol("(")) {
    if (skip_symbol(")")) return make(NodeKind::tuple, "");
    NodePtr inner = parse_tuple(true);
    expect_symbol(")");
    return inner;
  }
  if (skip_symbol("[")) {
    Draft node = draft(NodeKind::list);
    parse_items("]", [&] { add(*node, parse_expression()); });
    return node;
  }
  if (skip_symbol("{")) {
    Draft node = draft(NodeKind::dict);
    parse_items("}", [&] {
      add(*node, parse_expression());
      expect_symbol(":");
      add(*node, parse_expression());
    });
    return node;
  }
  fail_here(fmt::format("expected an expression, found '{}'", shown()));
}

NodePtr ExpressionParser::parse_name(const std::string& name) const {
  if (name == "true" || name == "True") return constant(true);
  if (name == "false" || name == "False") return constant(false);
  if (name == "none" || name == "None") return constant(None{});
  return make(NodeKind::name, name);
}

NodePtr ExpressionParser::parse_postfix(NodePtr node) {
  for (;;) {
    if (skip_symbol(".")) {
      if (peek().kind == TokenKind::integer) {
        NodePtr index = constant(number_of<std::int64_t>(peek()));
        at_++;
        node = make(NodeKind::subscript, "", std::move(node), std::move(index));
      } else {
        node = make(NodeKind::attribute, expect_name(), std::move(node));
      }
    } else if (skip_symbol("[")) {
      node = parse_subscript(std::move(node));
    } else if (is_symbol("(")) {
      node = parse_call(std::move(node));
    } else {
      return node;
    }
  }
}

NodePtr ExpressionParser::parse_subscript(NodePtr object) {
  const auto at_end = [this] { return is_symbol(":") || is_symbol("]"); };
  NodePtr start = at_end() ? nullptr : parse_tuple(true);
  if (skip_symbol("]")) {
    if (start == nullptr) fail_here("expected an expression, found ']'");
    return make(NodeKind::subscript, "", std::move(object), std::move(start));
  }
  expect_symbol(":");
  NodePtr stop = at_end() ? nullptr : parse_expression();
  NodePtr step = skip_symbol(":") && !at_end() ? parse_expression() : nullptr;
  expect_symbol("]");
  return make(NodeKind::slice, "", std::move(object), std::move(start), std::move(stop), std::move(step));
}

NodePtr ExpressionParser::parse_call(NodePtr function) {
  Draft node = draft(NodeKind::call);
  add(*node, std::move(function));
  parse_arguments(*node);
  return node;
}

void ExpressionParser::parse_arguments(Node& node) {
  expect_symbol("(");
  parse_items(")", [&] {
    Argument argument;
    if (skip_symbol("*")) {
      argument.spread = Argument::Spread::sequence;
    } else if (skip_symbol("**")) {
      argument.spread = Argument::Spread::dict;
    } else if (peek().kind == TokenKind::name && is_symbol("=", 1)) {
      argument.keyword = expect_name();
      at_++;
    } else if (!node.arguments.empty() && !node.arguments.back().keyword.empty()) {
      fail_here("an argument by position follows one by name");
    }
    argument.value = parse_expression();
    adopt(node, argument.value);
    node.arguments.push_back(std::move(argument));
  });
}

NodePtr ExpressionParser::parse_filters_and_tests(NodePtr node) {
  for (;;) {
    if (is_symbol("|")) {
      node = parse_filters(std::move(node), false);
    } else if (skip_name("is")) {
      node = parse_test(std::move(node));
    } else if (is_symbol("(")) {
      node = parse_call(std::move(node));
    } else {
      return node;
    }
  }
}

NodePtr ExpressionParser::parse_filters(NodePtr input, bool inside) {
  while (inside || skip_symbol("|")) {
    inside = false;
    Draft node = draft(NodeKind::filter, expect_name());
    add(*node, std::move(input));
    if (is_symbol("(")) parse_arguments(*node);
    input = std::move(node);
  }
  return input;
}

NodePtr ExpressionParser::parse_test(NodePtr input) {
  const bool negated = skip_name("not");
  Draft node = draft(NodeKind::test, expect_name());
  add(*node, std::move(input));
  const TokenKind kind = peek().kind;
  const bool operand = kind == TokenKind::string || kind == TokenKind::integer || kind == TokenKind::real ||
                       is_symbol("[") || is_symbol("{") ||
                       (kind == TokenKind::name && !is_name("else") && !is_name("or") && !is_name("and") &&
                        !is_name("is") && !is_name("if") && !is_name("in") && !is_name("not"));
  if (is_symbol("(")) {
    parse_arguments(*node);
  } else if (operand) {  // "x is divisibleby 3"
    NodePtr argument = parse_postfix(parse_primary());
    adopt(*node, argument);
    node->arguments.push_back({"", std::move(argument), Argument::Spread::none});
  }
  if (negated) return make(NodeKind::unary, "not", NodePtr(std::move(node)));
  return node;
}

}  // namespace fathom::jinja
