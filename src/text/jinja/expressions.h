// The tokens of a template under a cursor, and the parsing of expressions: recursive descent with Jinja's
// precedences (or, and, not, comparisons, + -, ~, * / // %, **, unary, postfix and filters).
#pragma once

#include <algorithm>
#include <charconv>
#include <initializer_list>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "base/error.h"
#include "text/jinja/lexer.h"
#include "text/jinja/parser.h"

namespace fathom::jinja {

inline constexpr int max_tree_height = 300;
/// Of brackets, negations and blocks while parsing: some 12 C++ frames each.
inline constexpr int max_nesting = 200;

class ExpressionParser {
 protected:
  explicit ExpressionParser(std::string_view source) : tokens_(tokenize(source)) {}

  using Draft = std::unique_ptr<Node>;

  /// Counts how deep the recursion is.
  class Nesting {
   public:
    explicit Nesting(ExpressionParser& parser) : parser_(parser) {
      if (++parser_.nesting_ > max_nesting) parser_.fail_here("the template nests too deep");
    }
    ~Nesting() { parser_.nesting_--; }
    Nesting(const Nesting&) = delete;
    Nesting& operator=(const Nesting&) = delete;

   private:
    ExpressionParser& parser_;
  };

  // --- tokens ---
  [[noreturn]] void fail_here(const std::string& what) const { fail("line {}: {}", peek().line, what); }

  const Token& peek(std::size_t ahead = 0) const {
    return tokens_[std::min(at_ + ahead, tokens_.size() - 1)];
  }
  bool is_symbol(std::string_view text, std::size_t ahead = 0) const {
    return peek(ahead).kind == TokenKind::symbol && peek(ahead).text == text;
  }
  bool is_name(std::string_view text, std::size_t ahead = 0) const {
    return peek(ahead).kind == TokenKind::name && peek(ahead).text == text;
  }
  bool skip_symbol(std::string_view text) { return is_symbol(text) && ++at_ > 0; }
  bool skip_name(std::string_view text) { return is_name(text) && ++at_ > 0; }
  void expect_symbol(std::string_view text) {
    if (!skip_symbol(text)) fail_here(fmt::format("expected '{}', found '{}'", text, shown()));
  }
  void expect(TokenKind kind, std::string_view what) {
    if (peek().kind != kind) fail_here(fmt::format("expected {}, found '{}'", what, shown()));
    at_++;
  }
  std::string expect_name() {
    if (peek().kind != TokenKind::name) fail_here(fmt::format("expected a name, found '{}'", shown()));
    return tokens_[at_++].text;
  }
  std::string shown() const {
    switch (peek().kind) {
      case TokenKind::expression_end:
        return "}}";
      case TokenKind::block_end:
        return "%}";
      case TokenKind::end:
        return "the end of the template";
      default:
        return peek().text;
    }
  }

  // --- nodes ---
  Draft draft(NodeKind kind, std::string name = "") const {
    auto node = std::make_unique<Node>();
    node->kind = kind;
    node->line = peek().line;
    node->name = std::move(name);
    return node;
  }
  void adopt(Node& parent, const NodePtr& child) const {
    if (child == nullptr) return;
    parent.height = std::max(parent.height, child->height + 1);
    if (parent.height > max_tree_height) fail_here("an expression or block is too long or nests too deep");
  }
  void add(Node& parent, NodePtr child) const {
    adopt(parent, child);
    parent.children.push_back(std::move(child));
  }
  template <typename... Children>
  NodePtr make(NodeKind kind, std::string name, Children... children) const {
    Draft node = draft(kind, std::move(name));
    (add(*node, std::move(children)), ...);
    return node;
  }
  NodePtr constant(Value value) const {
    Draft node = draft(NodeKind::constant);
    node->value = std::move(value);
    return node;
  }

  // --- expressions ---
  /// One expression, or several with commas between them as a tuple.
  NodePtr parse_tuple(bool with_conditional);
  NodePtr parse_expression();
  NodePtr parse_or();
  NodePtr parse_and();
  NodePtr parse_not();
  /// The comparison that stands here, taken; empty if there is none.
  std::string take_comparison();
  NodePtr parse_comparison();
  NodePtr parse_sum();
  NodePtr parse_concatenation();
  NodePtr parse_product();
  NodePtr parse_unary(bool with_filters);
  NodePtr parse_primary();
  NodePtr parse_name(const std::string& name) const;
  NodePtr parse_postfix(NodePtr node);
  NodePtr parse_subscript(NodePtr object);
  NodePtr parse_call(NodePtr function);
  void parse_arguments(Node& node);
  NodePtr parse_filters_and_tests(NodePtr node);
  /// |name(arguments)|name...; `inside`: the first name stands without its bar.
  NodePtr parse_filters(NodePtr input, bool inside);
  NodePtr parse_test(NodePtr input);

  /// operand (symbol operand)*, from the left
  template <typename ParseOperand>
  NodePtr parse_chain(std::initializer_list<std::string_view> symbols, const ParseOperand& parse_operand) {
    NodePtr node = parse_operand();
    for (;;) {
      const auto* symbol = std::find_if(symbols.begin(), symbols.end(), [&](auto s) { return is_symbol(s); });
      if (symbol == symbols.end()) return node;
      at_++;
      node = make(NodeKind::binary, std::string(*symbol), std::move(node), parse_operand());
    }
  }

  /// Items with commas between them, and perhaps one at the end, up to `close`.
  template <typename ParseItem>
  void parse_items(std::string_view close, const ParseItem& parse_item) {
    for (bool first = true; !skip_symbol(close); first = false) {
      if (!first) expect_symbol(",");
      if (first || !is_symbol(close)) parse_item();
    }
  }

  template <typename Number>
  Number number_of(const Token& token) const {
    Number number = 0;
    const char* end = token.text.data() + token.text.size();
    const auto result = std::from_chars(token.text.data(), end, number);
    if (result.ec != std::errc() || result.ptr != end)
      fail("line {}: the number {} is out of range", token.line, token.text);
    return number;
  }

  std::vector<Token> tokens_;
  std::size_t at_ = 0;
  int nesting_ = 0;
};

}  // namespace fathom::jinja
