// From a template's source to its tree.
#pragma once

#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "text/jinja/value.h"

namespace fathom::jinja {

enum class NodeKind {
  // Expressions. `children` are given in brackets.
  constant,     ///< value
  name,         ///< name
  list,         ///< [items...]
  tuple,        ///< [items...]
  dict,         ///< [key, value, key, value, ...]
  attribute,    ///< name of [object]
  subscript,    ///< [object, key]
  slice,        ///< [object, start, stop, step], each null where it is left out
  call,         ///< arguments; [function]
  filter,       ///< name, arguments; [input], null at the start of a filter block
  test,         ///< name, arguments; [input]
  unary,        ///< name "-", "+" or "not"; [operand]
  binary,       ///< name "+", "and", ...; [left, right]
  concatenate,  ///< [operands...]
  comparison,   ///< names "<", "in", "not in", ... in `operators`; [operand, operand, ...]
  conditional,  ///< [condition, value, otherwise or null]
  // Statements
  text,            ///< value
  output,          ///< [expression]
  body,            ///< [statements...]
  branch,          ///< if: [condition, body, condition, body, ..., else body or null]
  loop,            ///< for: [target, iterable, filter or null, body, else body or null]
  set,             ///< [target, expression]
  set_block,       ///< [target, filter or null, body]
  macro,           ///< name, parameters; [body]
  call_block,      ///< [call, macro of the block]
  filter_block,    ///< [filter, body]
  with,            ///< [target, value, target, value, ..., body]
  generation,      ///< what the assistant says: [body]
  leave_loop,      ///< break
  next_iteration,  ///< continue
  // Targets of assignments: name, tuple, or
  namespace_field  ///< name and `field`
};

struct Node;
using NodePtr = std::unique_ptr<const Node>;

struct Argument {
  enum class Spread { none, sequence, dict };  ///< x, *x, **x
  std::string keyword;                         ///< empty: by position
  NodePtr value;
  Spread spread = Spread::none;
};

struct Parameter {
  std::string name;
  NodePtr fallback;  ///< may be null
};

struct Node {
  NodeKind kind = NodeKind::body;
  int line = 0;
  int height = 1;  ///< limited by the parser, so that recursion over a tree is safe
  std::string name, field;
  Value value;
  std::vector<NodePtr> children;
  std::vector<std::string> operators;
  std::vector<Argument> arguments;
  std::vector<Parameter> parameters;
};

/// The tree of a template, of kind body. Throws Error naming the line and what is not understood.
NodePtr parse(std::string_view source);

}  // namespace fathom::jinja
