#include "text/unicode.h"

#include <utf8proc.h>

#include <algorithm>
#include <array>
#include <vector>

#include "base/error.h"

namespace fathom {
namespace {

constexpr std::string_view replacement = "\xEF\xBF\xBD";  // U+FFFD

struct Sequence {
  std::size_t bytes;  ///< of the character, or of the maximal ill-formed subpart
  enum { complete, ill_formed, cut_off } state;
};

/// The well-formed byte sequences of the Unicode standard (table 3-7): only the second byte has a range of
/// its own, which rules out overlong forms, surrogates and what lies beyond U+10FFFF.
Sequence scan(std::string_view bytes) {
  const auto at = [&](std::size_t i) { return static_cast<unsigned char>(bytes[i]); };
  const unsigned first = at(0);
  if (first < 0x80) return {1, Sequence::complete};
  if (first < 0xC2 || first > 0xF4) return {1, Sequence::ill_formed};
  const std::size_t length = first < 0xE0 ? 2 : first < 0xF0 ? 3 : 4;
  unsigned least = 0x80, most = 0xBF;
  if (first == 0xE0) least = 0xA0;
  if (first == 0xED) most = 0x9F;
  if (first == 0xF0) least = 0x90;
  if (first == 0xF4) most = 0x8F;
  for (std::size_t i = 1; i < length; ++i) {
    if (i == bytes.size()) return {i, Sequence::cut_off};
    if (at(i) < least || at(i) > most) return {i, Sequence::ill_formed};
    least = 0x80;
    most = 0xBF;
  }
  return {length, Sequence::complete};
}

utf8proc_category_t category(char32_t c) { return utf8proc_category(static_cast<utf8proc_int32_t>(c)); }

}  // namespace

std::size_t append_lossy(std::string& out, std::string_view bytes, bool final) {
  std::size_t at = 0;
  while (at < bytes.size()) {
    const Sequence next = scan(bytes.substr(at));
    if (next.state == Sequence::cut_off && !final) break;
    out += next.state == Sequence::complete ? bytes.substr(at, next.bytes) : replacement;
    at += next.bytes;
  }
  return at;
}

bool is_valid_utf8(std::string_view bytes) {
  for (std::size_t at = 0; at < bytes.size();) {
    const Sequence next = scan(bytes.substr(at));
    if (next.state != Sequence::complete) return false;
    at += next.bytes;
  }
  return true;
}

char32_t next_code_point(std::string_view text, std::size_t& at) {
  const std::size_t length = std::min(character_bytes(text[at]), text.size() - at);
  const auto first = static_cast<unsigned char>(text[at]);
  constexpr std::array<unsigned, 5> first_bits = {0, 0x7F, 0x1F, 0x0F, 0x07};
  char32_t code_point = first & first_bits[length];
  for (std::size_t i = 1; i < length; ++i)
    code_point = code_point << 6 | (static_cast<unsigned char>(text[at + i]) & 0x3F);
  at += length;
  return code_point;
}

std::size_t last_character(std::string_view text) {
  std::size_t at = text.size() - 1;
  while (at > 0 && (static_cast<unsigned char>(text[at]) & 0xC0) == 0x80) --at;
  return at;
}

void append_utf8(std::string& out, char32_t code_point) {
  std::array<utf8proc_uint8_t, 4> bytes{};
  const auto count = utf8proc_encode_char(static_cast<utf8proc_int32_t>(code_point), bytes.data());
  out.append(bytes.begin(), bytes.begin() + count);
}

bool is_white_space(char32_t c) {
  if (c < 0x80) return c == ' ' || (c >= '\t' && c <= '\r');
  return c == 0x85 || c == 0xA0 || c == 0x1680 || (c >= 0x2000 && c <= 0x200A) || c == 0x2028 ||
         c == 0x2029 || c == 0x202F || c == 0x205F || c == 0x3000;
}

bool is_numeric(char32_t c) {
  if (c < 0x80) return c >= '0' && c <= '9';
  const auto kind = category(c);
  return kind == UTF8PROC_CATEGORY_ND || kind == UTF8PROC_CATEGORY_NL || kind == UTF8PROC_CATEGORY_NO;
}

bool is_word(char32_t c) {
  switch (category(c)) {
    case UTF8PROC_CATEGORY_LU:
    case UTF8PROC_CATEGORY_LL:
    case UTF8PROC_CATEGORY_LT:
    case UTF8PROC_CATEGORY_LM:
    case UTF8PROC_CATEGORY_LO:
    case UTF8PROC_CATEGORY_MN:
    case UTF8PROC_CATEGORY_MC:
    case UTF8PROC_CATEGORY_ME:
    case UTF8PROC_CATEGORY_ND:
    case UTF8PROC_CATEGORY_NL:
    case UTF8PROC_CATEGORY_PC:
      return true;
    default:  // letters in circles and squares are alphabetic symbols; two joiners are of category Cf
      return (c >= 0x24B6 && c <= 0x24E9) || (c >= 0x1F130 && c <= 0x1F149) ||
             (c >= 0x1F150 && c <= 0x1F169) || (c >= 0x1F170 && c <= 0x1F189) || c == 0x200C || c == 0x200D;
  }
}

std::string normalise(std::string_view text, NormalForm form) {
  // ASCII is every normal form of itself.
  if (std::all_of(text.begin(), text.end(), [](char c) { return static_cast<signed char>(c) >= 0; }))
    return std::string(text);
  int options = UTF8PROC_STABLE;
  options |= form == NormalForm::nfc || form == NormalForm::nfkc ? UTF8PROC_COMPOSE : UTF8PROC_DECOMPOSE;
  if (form == NormalForm::nfkc || form == NormalForm::nfkd) options |= UTF8PROC_COMPAT;
  const auto flags = static_cast<utf8proc_option_t>(options);
  const auto* bytes = reinterpret_cast<const utf8proc_uint8_t*>(text.data());
  const auto size = static_cast<utf8proc_ssize_t>(text.size());
  utf8proc_ssize_t count = utf8proc_decompose(bytes, size, nullptr, 0, flags);
  std::vector<utf8proc_int32_t> points(static_cast<std::size_t>(std::max<utf8proc_ssize_t>(count, 0)));
  if (count >= 0) count = utf8proc_decompose(bytes, size, points.data(), count, flags);
  if (count >= 0) count = utf8proc_normalize_utf32(points.data(), count, flags);
  if (count < 0) fail("cannot normalise a text of {} bytes: {}", text.size(), utf8proc_errmsg(count));
  std::string out;
  out.reserve(text.size());
  for (utf8proc_ssize_t i = 0; i < count; ++i) append_utf8(out, static_cast<char32_t>(points[i]));
  return out;
}

std::string lower_case(std::string_view text) {
  std::string out;
  out.reserve(text.size());
  for (std::size_t at = 0; at < text.size();) {
    const char32_t c = next_code_point(text, at);
    append_utf8(out, static_cast<char32_t>(utf8proc_tolower(static_cast<utf8proc_int32_t>(c))));
    // The one character whose lower case is two: I with a dot, i and a combining dot above.
    if (c == 0x130) append_utf8(out, 0x307);
  }
  return out;
}

}  // namespace fathom
