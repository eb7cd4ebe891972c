// Operators on numbers, strings and lists, and printf-style formatting.
#include <array>
#include <cmath>
#include <cstdio>

#include "base/error.h"
#include "text/jinja/interpreter.h"
#include "text/jinja/text.h"

namespace fathom::jinja {
namespace {

constexpr std::int64_t most_padding = 10'000;  // of formatted values

std::int64_t floor_divide(std::int64_t left, std::int64_t right) {
  const std::int64_t quotient = left / right;
  return left % right != 0 && (left < 0) != (right < 0) ? quotient - 1 : quotient;
}

std::int64_t power(std::int64_t base, std::int64_t exponent) {
  std::int64_t result = 1;
  bool overflow = false;
  for (; exponent > 0; exponent >>= 1) {
    if ((exponent & 1) != 0) overflow |= __builtin_mul_overflow(result, base, &result);
    if (exponent > 1) overflow |= __builtin_mul_overflow(base, base, &base);
    if (overflow) fail("an integer needs more than 64 bits");
  }
  return result;
}

Value integer_arithmetic(const std::string& symbol, std::int64_t left, std::int64_t right) {
  std::int64_t result = 0;
  bool overflow = false;
  if (symbol == "+") {
    overflow = __builtin_add_overflow(left, right, &result);
  } else if (symbol == "-") {
    overflow = __builtin_sub_overflow(left, right, &result);
  } else if (symbol == "*") {
    overflow = __builtin_mul_overflow(left, right, &result);
  } else if (symbol == "**") {
    if (right < 0) return std::pow(static_cast<double>(left), static_cast<double>(right));
    result = power(left, right);
  } else {
    if (right == 0) fail("division by zero");
    if (symbol == "/") return static_cast<double>(left) / static_cast<double>(right);
    if (right == -1) {  // INT64_MIN / -1 does not fit
      overflow = __builtin_sub_overflow(0, left, &result);
      if (symbol == "%") return std::int64_t{0};
    } else {
      result = floor_divide(left, right);
      if (symbol == "%") result = left - result * right;
    }
  }
  if (overflow) fail("an integer needs more than 64 bits");
  return result;
}

Value float_arithmetic(const std::string& symbol, double left, double right) {
  if (symbol == "+") return left + right;
  if (symbol == "-") return left - right;
  if (symbol == "*") return left * right;
  if (symbol == "**") return std::pow(left, right);
  if (right == 0) fail("division by zero");
  if (symbol == "/") return left / right;
  if (symbol == "//") return std::floor(left / right);
  const double remainder = std::fmod(left, right);
  return remainder != 0 && (remainder < 0) != (right < 0) ? remainder + right : remainder;
}

Value repeated(const Value& value, std::int64_t times, Work& work) {
  const auto count = static_cast<std::size_t>(std::max<std::int64_t>(times, 0));
  const std::string* text = value.string();
  const std::size_t size = text != nullptr ? text->size() : value.sequence()->items.size();
  if (size > 0 && count > (std::size_t{1} << 40) / size)
    fail("repeating something {} times is too much", times);
  if (text != nullptr) {
    work.spend(size * count);
    std::string result;
    result.reserve(size * count);
    for (std::size_t i = 0; i < count && size > 0; i++) result += *text;
    return result;
  }
  work.spend_elements(size * count);
  Sequence result({}, value.sequence()->kind);
  for (std::size_t i = 0; i < count && size > 0; i++)
    result.items.insert(result.items.end(), value.sequence()->items.begin(), value.sequence()->items.end());
  return result;
}

/// Pads to `width` characters: left, right, or with zeros behind the sign.
std::string padded(std::string text, std::int64_t width, bool left, bool zeros) {
  const auto size = static_cast<std::int64_t>(count_characters(text));
  if (size >= width) return text;
  const std::string padding(static_cast<std::size_t>(width - size), zeros && !left ? '0' : ' ');
  if (left) return text + padding;
  const std::size_t sign = zeros && !text.empty() && (text[0] == '-' || text[0] == '+') ? 1 : 0;
  return text.substr(0, sign) + padding + text.substr(sign);
}

/// One conversion of a format: %-08.3f
struct Conversion {
  bool left = false, zeros = false, plus = false, space = false;
  std::int64_t width = 0, precision = -1;
  char type = 's';
};

Conversion read_conversion(std::string_view format, std::size_t& at) {
  Conversion conversion;
  const auto peek = [&] { return at < format.size() ? format[at] : '\0'; };
  for (; peek() != '\0' && std::string_view("-+ 0#").find(peek()) != std::string_view::npos; at++) {
    conversion.left |= peek() == '-';
    conversion.plus |= peek() == '+';
    conversion.space |= peek() == ' ';
    conversion.zeros |= peek() == '0';
  }
  const auto read_number = [&] {
    std::int64_t number = 0;
    for (; peek() >= '0' && peek() <= '9'; at++) {
      number = number * 10 + (peek() - '0');
      if (number > most_padding) fail("a format's width or precision is larger than {}", most_padding);
    }
    return number;
  };
  conversion.width = read_number();
  if (peek() == '.') {
    at++;
    conversion.precision = read_number();
  }
  conversion.type = peek();
  if (peek() == '\0') fail("the format '{}' is not complete", format);
  at++;
  return conversion;
}

std::string signed_text(std::string digits, bool negative, const Conversion& conversion) {
  return (negative ? "-" : conversion.plus ? "+" : conversion.space ? " " : "") + std::move(digits);
}

std::string converted(const Conversion& conversion, const Value& value, Work& work) {
  switch (conversion.type) {
    case 's':
    case 'r': {
      std::string text = conversion.type == 's' ? to_text(value, work) : to_repr(value, work);
      if (conversion.precision >= 0) {
        std::u32string characters = decode_utf8(text);
        if (conversion.precision < std::ssize(characters)) {
          characters.resize(static_cast<std::size_t>(conversion.precision));
          text = encode_utf8(characters);
        }
      }
      return padded(std::move(text), conversion.width, conversion.left, false);
    }
    case 'd':
    case 'i':
    case 'u':
    case 'x':
    case 'X':
    case 'o': {
      if (!value.is_number()) fail("%{} needs a number, not '{}'", conversion.type, value.type_name());
      const double number = value.number();
      if (value.is_float() && !(std::abs(number) < 9e18)) fail("{} does not fit into 64 bits", number);
      const std::int64_t whole = value.is_float() ? static_cast<std::int64_t>(number) : value.integer();
      const std::uint64_t size =
          whole < 0 ? 0 - static_cast<std::uint64_t>(whole) : static_cast<std::uint64_t>(whole);
      std::string digits = conversion.type == 'x'   ? fmt::format("{:x}", size)
                           : conversion.type == 'X' ? fmt::format("{:X}", size)
                           : conversion.type == 'o' ? fmt::format("{:o}", size)
                                                    : std::to_string(size);
      if (std::ssize(digits) < conversion.precision)
        digits.insert(0, static_cast<std::size_t>(conversion.precision) - digits.size(), '0');
      return padded(signed_text(std::move(digits), whole < 0, conversion), conversion.width, conversion.left,
                    conversion.zeros);
    }
    case 'f':
    case 'F':
    case 'e':
    case 'E':
    case 'g':
    case 'G': {
      if (!value.is_number()) fail("%{} needs a number, not '{}'", conversion.type, value.type_name());
      const double number = value.number();
      const int precision = conversion.precision < 0 ? 6 : static_cast<int>(conversion.precision);
      const std::string pattern = std::string("%.*") + conversion.type;
      std::array<char, most_padding + 400> buffer{};  // the largest double has 309 digits
      const int size =
          std::snprintf(buffer.data(), buffer.size(), pattern.c_str(), precision, std::abs(number));
      return padded(signed_text(std::string(buffer.data(), static_cast<std::size_t>(size)),
                                std::signbit(number), conversion),
                    conversion.width, conversion.left, conversion.zeros);
    }
    default:
      fail("the format %{} is not supported", conversion.type);
  }
}

}  // namespace

std::string format_percent(std::string_view format, const std::vector<Value>& arguments, Work& work) {
  std::string result;
  std::size_t next = 0;
  for (std::size_t at = 0; at < format.size();) {
    const std::size_t percent = std::min(format.find('%', at), format.size());
    result += format.substr(at, percent - at);
    at = percent + 1;
    if (percent == format.size()) break;
    const Conversion conversion = read_conversion(format, at);
    if (conversion.type == '%') {
      result += '%';
      continue;
    }
    if (next == arguments.size()) fail("the format '{}' needs more than {} values", format, arguments.size());
    work.spend(static_cast<std::size_t>(conversion.width + conversion.precision + 8));
    result += converted(conversion, arguments[next++], work);
  }
  if (next < arguments.size())
    fail("the format '{}' takes {} values, got {}", format, next, arguments.size());
  work.spend(result.size());
  return result;
}

Value arithmetic(const std::string& symbol, const Value& left, const Value& right, Work& work) {
  for (const Value* operand : {&left, &right})
    if (operand->is_undefined()) fail("{}", operand->what());
  if (left.is_number() && right.is_number()) {
    if (left.is_float() || right.is_float()) return float_arithmetic(symbol, left.number(), right.number());
    return integer_arithmetic(symbol, left.integer(), right.integer());
  }
  const Sequence *a = left.sequence(), *b = right.sequence();
  const auto is_list = [](const Sequence* s) {
    return s != nullptr && (s->kind == Sequence::Kind::list || s->kind == Sequence::Kind::tuple);
  };
  if (symbol == "+" && left.is_string() && right.is_string()) {
    work.spend(left.string()->size() + right.string()->size());
    return *left.string() + *right.string();
  }
  if (symbol == "+" && is_list(a) && is_list(b) && a->kind == b->kind) {
    work.spend_elements(a->items.size() + b->items.size());
    Sequence joined(a->items, a->kind);
    joined.items.insert(joined.items.end(), b->items.begin(), b->items.end());
    return joined;
  }
  if (symbol == "*") {
    const auto counts = [](const Value& value) { return value.is_integer() || value.is_bool(); };
    if ((left.is_string() || is_list(a)) && counts(right)) return repeated(left, right.integer(), work);
    if ((right.is_string() || is_list(b)) && counts(left)) return repeated(right, left.integer(), work);
  }
  if (symbol == "%" && left.is_string()) {
    const bool tuple = b != nullptr && b->kind == Sequence::Kind::tuple;
    return format_percent(*left.string(), tuple ? b->items : std::vector<Value>{right}, work);
  }
  fail("'{}' {} '{}' has no meaning", left.type_name(), symbol, right.type_name());
}

}  // namespace fathom::jinja
