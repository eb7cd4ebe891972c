// Unicode as tokenizers need it: UTF-8 in and out, the few character classes, normal forms (utf8proc).
#pragma once

#include <cstddef>
#include <string>
#include <string_view>

namespace fathom {

/// Appends `bytes` to `out` with every ill-formed part replaced by U+FFFD, one for each maximal subpart (what
/// Python and Rust do). Unless `final`, a sequence that is cut off at the end but may still become a
/// character is left alone. Returns how many bytes were used up.
std::size_t append_lossy(std::string& out, std::string_view bytes, bool final);

bool is_valid_utf8(std::string_view bytes);

/// The code point at `at` of valid UTF-8; moves `at` behind it.
char32_t next_code_point(std::string_view text, std::size_t& at);
/// Where the last code point of valid, not empty UTF-8 begins.
std::size_t last_character(std::string_view text);
void append_utf8(std::string& out, char32_t code_point);

/// Bytes of the UTF-8 character that begins with `first` (of valid UTF-8).
inline std::size_t character_bytes(char first) {
  const auto byte = static_cast<unsigned char>(first);
  return byte < 0x80 ? 1 : byte < 0xE0 ? 2 : byte < 0xF0 ? 3 : 4;
}

bool is_white_space(char32_t c);  ///< the property White_Space
bool is_numeric(char32_t c);      ///< categories Nd, Nl, No
bool is_word(char32_t c);         ///< \w of Unicode TR 18: letters, marks, digits, connectors, joiners

enum class NormalForm { nfc, nfd, nfkc, nfkd };
std::string normalise(std::string_view text, NormalForm form);  ///< of valid UTF-8
std::string lower_case(std::string_view text);  ///< each character on its own, without context

}  // namespace fathom
