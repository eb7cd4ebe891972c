// Python's string operations on valid UTF-8, by character (code point).
#pragma once

#include <cstddef>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace fathom::jinja {

std::u32string decode_utf8(std::string_view text);
std::string encode_utf8(char32_t character);  ///< surrogates and what is beyond Unicode become U+FFFD
std::string encode_utf8(std::u32string_view characters);
std::size_t count_characters(std::string_view text);

bool is_space(char32_t character);  ///< str.isspace(), which is \s of re as well
bool is_letter(char32_t character);
bool is_digit(char32_t character);  ///< str.isdecimal()
bool is_upper(char32_t character);
bool is_lower(char32_t character);

/// Case by simple mappings (one character to one), except that "ß" becomes "SS". Lower case is lower_case of
/// unicode.h.
std::string upper(std::string_view text);
std::string capitalize(std::string_view text);
std::string title(std::string_view text);  ///< str.title()

enum class Side { left, right, both };
/// strip(), lstrip(), rstrip(): of whitespace, or of the characters in `set`.
std::string_view strip(std::string_view text, Side side, std::optional<std::string_view> set = {});

/// split(separator, most) or, `from_right`, rsplit; most < 0: no limit. `separator` is not empty; without
/// one, at runs of whitespace.
std::vector<std::string> split(std::string_view text, std::optional<std::string_view> separator,
                               std::int64_t most, bool from_right);
std::vector<std::string> split_lines(std::string_view text, bool keep_ends = false);

/// replace(from, to, most); most < 0: all.
std::string replace(std::string_view text, std::string_view from, std::string_view to, std::int64_t most);

}  // namespace fathom::jinja
