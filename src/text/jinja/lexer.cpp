#include "text/jinja/lexer.h"

#include <algorithm>
#include <array>

#include "base/error.h"
#include "text/jinja/text.h"
#include "text/unicode.h"

namespace fathom::jinja {
namespace {

// Longest first, so that "//" is not read as two "/".
constexpr std::array<std::string_view, 26> symbols = {"//", "**", "==", "!=", ">=", "<=", "+", "-", "/",
                                                      "*",  "%",  "~",  "[",  "]",  "(",  ")", "{", "}",
                                                      ">",  "<",  "=",  ".",  ":",  "|",  ",", ";"};

bool is_digit_char(char c) { return c >= '0' && c <= '9'; }
bool is_name_char(char c) {
  return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || is_digit_char(c) || c == '_' ||
         static_cast<unsigned char>(c) >= 0x80;
}

/// Valid UTF-8 with line ends as \n, without the last one: Jinja drops a template's final newline.
std::string normalized(std::string_view bytes) {
  std::string source;
  append_lossy(source, bytes, true);
  std::string text;
  for (std::size_t i = 0; i < source.size(); i++) {
    if (source[i] != '\r') {
      text += source[i];
    } else if (i + 1 == source.size() || source[i + 1] != '\n') {
      text += '\n';
    }
  }
  if (!text.empty() && text.back() == '\n') text.pop_back();
  return text;
}

class Lexer {
 public:
  explicit Lexer(std::string_view source) : text_(normalized(source)) {}

  std::vector<Token> run() {
    while (at_ < text_.size()) read_data_and_tag();
    add(TokenKind::end, "");
    return std::move(tokens_);
  }

 private:
  [[noreturn]] void fail_here(const std::string& what) const { fail("line {}: {}", line_, what); }

  bool looking_at(std::string_view part) const {
    return std::string_view(text_).substr(at_, part.size()) == part;
  }

  void move_to(std::size_t position) {
    line_ += static_cast<int>(std::count(text_.begin() + static_cast<std::ptrdiff_t>(at_),
                                         text_.begin() + static_cast<std::ptrdiff_t>(position), '\n'));
    at_ = position;
  }

  void add(TokenKind kind, std::string text) { tokens_.push_back({kind, std::move(text), line_}); }

  /// Where white space from `position` on ends.
  std::size_t behind_spaces(std::size_t position) const {
    const std::string_view rest = std::string_view(text_).substr(position);
    return position + (rest.size() - strip(rest, Side::left).size());
  }

  /// Data up to a tag, whose sign ('-', '+' or none) decides how much white space before it stays.
  void add_data(std::string_view data, char sign, bool is_block) {
    if (sign == '-') {
      data = strip(data, Side::right);
    } else if (sign != '+' && is_block) {
      const std::size_t newline = data.rfind('\n');
      const std::size_t start = newline == std::string_view::npos ? 0 : newline + 1;
      if ((start > 0 || line_begins_) && strip(data.substr(start), Side::right).empty())
        data = data.substr(0, start);
    }
    if (!data.empty()) add(TokenKind::data, std::string(data));
  }

  char sign_at(std::size_t position) const {
    const char c = position < text_.size() ? text_[position] : ' ';
    return c == '-' || c == '+' ? c : ' ';
  }

  void read_data_and_tag() {
    std::size_t tag = at_;
    const auto opens = [&] {
      const char second = text_[tag + 1];
      return text_[tag] == '{' && (second == '{' || second == '%' || second == '#');
    };
    while (tag + 1 < text_.size() && !opens()) tag++;
    if (tag + 1 >= text_.size()) {
      add(TokenKind::data, text_.substr(at_));
      at_ = text_.size();
      return;
    }
    const char type = text_[tag + 1];
    const char sign = sign_at(tag + 2);
    add_data(std::string_view(text_).substr(at_, tag - at_), sign, type != '{');
    move_to(tag + (sign == ' ' ? 2 : 3));
    if (type == '#') return skip_comment();
    if (type == '%' && read_raw()) return;
    const bool block = type == '%';
    add(block ? TokenKind::block_begin : TokenKind::expression_begin, "");
    read_tag(block);
  }

  /// Moves behind "%}" or "#}", with the newline that belongs to it. `sign` stood before it.
  void leave_block(std::size_t close, char sign) {
    std::size_t behind = close + 2;
    if (sign == '-') {
      behind = behind_spaces(behind);
    } else if (sign == ' ' && behind < text_.size() && text_[behind] == '\n') {
      behind++;
    }
    line_begins_ = text_[behind - 1] == '\n';
    move_to(behind);
  }

  void skip_comment() {
    const std::size_t close = text_.find("#}", at_);
    if (close == std::string::npos) fail_here("a comment has no end ('#}')");
    leave_block(close, close > at_ ? sign_at(close - 1) : ' ');
  }

  /// {% raw %} ... {% endraw %}: true if it was one.
  bool read_raw() {
    std::size_t position = behind_spaces(at_);
    if (text_.compare(position, 3, "raw") != 0) return false;
    position = behind_spaces(position + 3);
    const bool trims = text_.compare(position, 3, "-%}") == 0;
    if (!trims && text_.compare(position, 2, "%}") != 0) return false;
    position = trims ? behind_spaces(position + 3) : position + 2;
    line_begins_ = text_[position - 1] == '\n';
    move_to(position);
    for (std::size_t open = text_.find("{%", at_); open != std::string::npos;
         open = text_.find("{%", open + 2)) {
      const char sign = sign_at(open + 2);
      std::size_t word = behind_spaces(open + (sign == ' ' ? 2 : 3));
      if (text_.compare(word, 6, "endraw") != 0) continue;
      word = behind_spaces(word + 6);
      const char end_sign = sign_at(word);
      const std::size_t close = word + (end_sign == ' ' ? 0 : 1);
      if (text_.compare(close, 2, "%}") != 0) continue;
      add_data(std::string_view(text_).substr(at_, open - at_), sign, true);
      leave_block(close, end_sign);
      return true;
    }
    fail_here("a raw block has no end ('{% endraw %}')");
  }

  void read_tag(bool block) {
    const std::string_view close = block ? "%}" : "}}";
    std::string brackets;  // those that are open: inside them "}}" ends dicts, not the tag
    for (;;) {
      move_to(behind_spaces(at_));
      if (at_ >= text_.size()) fail_here(fmt::format("a tag has no end ('{}')", close));
      if (brackets.empty()) {
        const char sign = sign_at(at_);
        const bool signed_close =
            (sign == '-' || (sign == '+' && block)) && std::string_view(text_).substr(at_ + 1, 2) == close;
        if (signed_close || looking_at(close)) return close_tag(block, signed_close ? sign : ' ');
      }
      read_token(brackets);
    }
  }

  void close_tag(bool block, char sign) {
    add(block ? TokenKind::block_end : TokenKind::expression_end, "");
    const std::size_t close = at_ + (sign == ' ' ? 0 : 1);
    // A newline after an expression stays; '+' makes leave_block keep it.
    leave_block(close, block || sign == '-' ? sign : '+');
  }

  void read_token(std::string& brackets) {
    const char c = text_[at_];
    if (is_digit_char(c)) return read_number();
    if (is_name_char(c)) {
      std::size_t end = at_;
      while (end < text_.size() && is_name_char(text_[end])) end++;
      add(TokenKind::name, text_.substr(at_, end - at_));
      at_ = end;
      return;
    }
    if (c == '\'' || c == '"') return read_string();
    for (const std::string_view symbol : symbols) {
      if (!looking_at(symbol)) continue;
      track(symbol.front(), brackets);
      add(TokenKind::symbol, std::string(symbol));
      at_ += symbol.size();
      return;
    }
    fail_here(fmt::format("unexpected character '{}'", c));
  }

  void track(char c, std::string& brackets) const {
    if (c == '{') brackets += '}';
    if (c == '(') brackets += ')';
    if (c == '[') brackets += ']';
    if (c != '}' && c != ')' && c != ']') return;
    if (brackets.empty() || brackets.back() != c) fail_here(fmt::format("unexpected '{}'", c));
    brackets.pop_back();
  }

  std::size_t behind_digits(std::size_t position) const {
    while (position < text_.size() &&
           (is_digit_char(text_[position]) ||
            (text_[position] == '_' && position + 1 < text_.size() && is_digit_char(text_[position + 1]))))
      position++;
    return position;
  }

  void read_number() {
    const auto digit_at = [&](std::size_t i) { return i < text_.size() && is_digit_char(text_[i]); };
    const bool after_dot = at_ > 0 && text_[at_ - 1] == '.';  // the 0 of "a.0.1" is an integer
    std::size_t end = behind_digits(at_);
    bool real = false;
    if (!after_dot && end < text_.size() && text_[end] == '.' && digit_at(end + 1)) {
      end = behind_digits(end + 1);
      real = true;
    }
    if (!after_dot && end < text_.size() && (text_[end] == 'e' || text_[end] == 'E')) {
      const std::size_t digits = end + (sign_at(end + 1) == ' ' ? 1 : 2);
      if (digit_at(digits)) {
        end = behind_digits(digits);
        real = true;
      }
    }
    std::string digits = text_.substr(at_, end - at_);
    std::erase(digits, '_');
    add(real ? TokenKind::real : TokenKind::integer, digits);
    at_ = end;
  }

  void read_string() {
    const char quote = text_[at_];
    std::size_t end = at_ + 1;
    while (end < text_.size() && text_[end] != quote) end += text_[end] == '\\' ? 2 : 1;
    if (end >= text_.size()) fail_here("a string has no end");
    add(TokenKind::string, unescaped(std::string_view(text_).substr(at_ + 1, end - at_ - 1)));
    move_to(end + 1);
  }

  /// Python's escapes.
  std::string unescaped(std::string_view raw) const {
    std::string result;
    for (std::size_t i = 0; i < raw.size(); i++) {
      if (raw[i] != '\\') {
        result += raw[i];
        continue;
      }
      const char c = raw[++i];
      constexpr std::string_view letters = "abfnrtv\\'\"", meanings = "\a\b\f\n\r\t\v\\'\"";
      const std::size_t known = letters.find(c);
      if (known != std::string_view::npos) {
        result += meanings[known];
      } else if (c == 'x' || c == 'u' || c == 'U') {
        const std::size_t digits = c == 'x' ? 2 : c == 'u' ? 4 : 8;
        result += coded(raw.substr(i + 1, digits), digits, 16);
        i += digits;
      } else if (c >= '0' && c <= '7') {
        std::size_t digits = 1;
        while (digits < 3 && i + digits < raw.size() && raw[i + digits] >= '0' && raw[i + digits] <= '7')
          digits++;
        result += coded(raw.substr(i, digits), digits, 8);
        i += digits - 1;
      } else if (c != '\n') {
        result += '\\';
        result += c;
      }
    }
    return result;
  }

  std::string coded(std::string_view digits, std::size_t count, int base) const {
    char32_t character = 0;
    const auto value = [](char c) {
      return is_digit_char(c) ? c - '0' : (c | 0x20) >= 'a' && (c | 0x20) <= 'f' ? (c | 0x20) - 'a' + 10 : 99;
    };
    for (const char c : digits) {
      if (value(c) >= base) fail_here(fmt::format("'{}' is no character code", digits));
      character = character * static_cast<char32_t>(base) + static_cast<char32_t>(value(c));
    }
    if (digits.size() != count) fail_here("a character code in a string is cut off");
    return encode_utf8(character);
  }

  std::string text_;
  std::size_t at_ = 0;
  int line_ = 1;
  bool line_begins_ = true;  ///< data here begins a line
  std::vector<Token> tokens_;
};

}  // namespace

std::vector<Token> tokenize(std::string_view source) { return Lexer(source).run(); }

}  // namespace fathom::jinja
