// From a template's source to tokens, with Jinja's rules for white space around tags.
#pragma once

#include <string>
#include <string_view>
#include <vector>

namespace fathom::jinja {

enum class TokenKind {
  data,  ///< text outside tags
  expression_begin,
  expression_end,
  block_begin,
  block_end,
  name,
  string,
  integer,
  real,
  symbol,  ///< an operator or bracket
  end
};

struct Token {
  TokenKind kind;
  std::string text;  ///< strings without quotes and escapes
  int line;
};

/// Tokens of a template, the last of kind `end`, with trim_blocks and lstrip_blocks: a newline after a block
/// tag, and white space before one that begins a line, belong to the tag. Comments are gone, raw blocks are
/// data. Throws Error with the line.
std::vector<Token> tokenize(std::string_view source);

}  // namespace fathom::jinja
