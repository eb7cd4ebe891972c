#include "text/jinja/text.h"

#include <utf8proc.h>

#include <algorithm>

#include "text/unicode.h"

namespace fathom::jinja {
namespace {

/// The character that ends at `end`, and moves `end` before it.
char32_t previous_character(std::string_view text, std::size_t& end) {
  do {
    end--;
  } while (end > 0 && (static_cast<unsigned char>(text[end]) & 0xc0) == 0x80);
  std::size_t at = end;
  return next_code_point(text, at);
}

utf8proc_category_t category(char32_t c) { return utf8proc_category(static_cast<utf8proc_int32_t>(c)); }

char32_t to_upper(char32_t c) {
  return static_cast<char32_t>(utf8proc_toupper(static_cast<utf8proc_int32_t>(c)));
}
char32_t to_lower(char32_t c) {
  return static_cast<char32_t>(utf8proc_tolower(static_cast<utf8proc_int32_t>(c)));
}

bool is_line_end(char32_t c) {
  return (c >= 0x0a && c <= 0x0d) || (c >= 0x1c && c <= 0x1e) || c == 0x85 || c == 0x2028 || c == 0x2029;
}

std::vector<std::string> split_at_spaces(std::string_view text, std::int64_t most, bool from_right) {
  std::vector<std::string> parts;
  std::string_view rest = strip(text, from_right ? Side::right : Side::left);
  while (!rest.empty()) {
    if (static_cast<std::int64_t>(parts.size()) == most) {
      parts.emplace_back(strip(rest, from_right ? Side::right : Side::left));
      break;
    }
    std::size_t cut = from_right ? rest.size() : 0;
    if (from_right) {
      for (std::size_t before = cut; cut > 0; cut = before)
        if (is_space(previous_character(rest, before))) break;
      parts.emplace_back(rest.substr(cut));
      rest = strip(rest.substr(0, cut), Side::right);
    } else {
      for (std::size_t after = cut; cut < rest.size(); cut = after)
        if (is_space(next_code_point(rest, after))) break;
      parts.emplace_back(rest.substr(0, cut));
      rest = strip(rest.substr(cut), Side::left);
    }
  }
  if (from_right) std::reverse(parts.begin(), parts.end());
  return parts;
}

}  // namespace

std::u32string decode_utf8(std::string_view text) {
  std::u32string characters;
  for (std::size_t at = 0; at < text.size();) characters.push_back(next_code_point(text, at));
  return characters;
}

std::string encode_utf8(char32_t character) {
  const bool valid = character <= 0x10ffff && (character < 0xd800 || character >= 0xe000);
  std::string text;
  append_utf8(text, valid ? character : char32_t{0xfffd});
  return text;
}

std::string encode_utf8(std::u32string_view characters) {
  std::string text;
  for (const char32_t character : characters) text += encode_utf8(character);
  return text;
}

std::size_t count_characters(std::string_view text) {
  std::size_t count = 0;
  for (std::size_t at = 0; at < text.size(); count++) next_code_point(text, at);
  return count;
}

bool is_space(char32_t c) {
  if (c < 0x80) return c == ' ' || (c >= 0x09 && c <= 0x0d) || (c >= 0x1c && c <= 0x1f);
  return c == 0x85 || c == 0xa0 || c == 0x1680 || (c >= 0x2000 && c <= 0x200a) || c == 0x2028 ||
         c == 0x2029 || c == 0x202f || c == 0x205f || c == 0x3000;
}

bool is_letter(char32_t c) {
  const auto kind = category(c);
  return kind >= UTF8PROC_CATEGORY_LU && kind <= UTF8PROC_CATEGORY_LO;
}
bool is_digit(char32_t c) { return category(c) == UTF8PROC_CATEGORY_ND; }
bool is_upper(char32_t c) { return category(c) == UTF8PROC_CATEGORY_LU; }
bool is_lower(char32_t c) { return category(c) == UTF8PROC_CATEGORY_LL; }

std::string upper(std::string_view text) {
  std::string result;
  for (std::size_t at = 0; at < text.size();) {
    const char32_t c = next_code_point(text, at);
    result += c == U'ß' ? "SS" : encode_utf8(to_upper(c));
  }
  return result;
}

std::string capitalize(std::string_view text) {
  if (text.empty()) return "";
  std::size_t at = 0;
  const char32_t first = next_code_point(text, at);
  return encode_utf8(to_upper(first)) + lower_case(text.substr(at));
}

std::string title(std::string_view text) {
  std::string result;
  bool inside = false;  // a word
  for (std::size_t at = 0; at < text.size();) {
    const char32_t c = next_code_point(text, at);
    result += encode_utf8(inside ? to_lower(c) : to_upper(c));
    inside = is_letter(c);
  }
  return result;
}

std::string_view strip(std::string_view text, Side side, std::optional<std::string_view> set) {
  const std::u32string characters = set ? decode_utf8(*set) : std::u32string();
  const auto goes = [&](char32_t c) {
    return set ? characters.find(c) != std::u32string::npos : is_space(c);
  };
  if (side != Side::right) {
    std::size_t start = 0;
    for (std::size_t at = 0; at < text.size() && goes(next_code_point(text, at));) start = at;
    text.remove_prefix(start);
  }
  if (side != Side::left) {
    std::size_t end = text.size();
    for (std::size_t at = end; at > 0 && goes(previous_character(text, at));) end = at;
    text = text.substr(0, end);
  }
  return text;
}

std::vector<std::string> split(std::string_view text, std::optional<std::string_view> separator,
                               std::int64_t most, bool from_right) {
  if (!separator) return split_at_spaces(text, most, from_right);
  std::vector<std::string> parts;
  while (static_cast<std::int64_t>(parts.size()) != most) {
    const std::size_t at = from_right ? text.rfind(*separator) : text.find(*separator);
    if (at == std::string_view::npos) break;
    const std::size_t behind = at + separator->size();
    parts.emplace_back(from_right ? text.substr(behind) : text.substr(0, at));
    text = from_right ? text.substr(0, at) : text.substr(behind);
  }
  parts.emplace_back(text);
  if (from_right) std::reverse(parts.begin(), parts.end());
  return parts;
}

std::vector<std::string> split_lines(std::string_view text, bool keep_ends) {
  std::vector<std::string> lines;
  std::size_t start = 0;
  for (std::size_t at = 0; at < text.size();) {
    const std::size_t end = at;
    const char32_t c = next_code_point(text, at);
    if (!is_line_end(c)) continue;
    if (c == '\r' && at < text.size() && text[at] == '\n') at++;
    lines.emplace_back(text.substr(start, (keep_ends ? at : end) - start));
    start = at;
  }
  if (start < text.size()) lines.emplace_back(text.substr(start));
  return lines;
}

std::string replace(std::string_view text, std::string_view from, std::string_view to, std::int64_t most) {
  std::string result;
  if (from.empty()) {  // Python puts `to` between all characters
    std::size_t at = 0;
    std::int64_t done = 0;
    while (done != most) {
      result += to;
      done++;
      if (at == text.size()) return result;
      const std::size_t start = at;
      next_code_point(text, at);
      result += text.substr(start, at - start);
    }
    return result.append(text.substr(at));
  }
  for (std::int64_t done = 0; done != most; done++) {
    const std::size_t at = text.find(from);
    if (at == std::string_view::npos) break;
    result.append(text.substr(0, at)).append(to);
    text.remove_prefix(at + from.size());
  }
  return result.append(text);
}

}  // namespace fathom::jinja
