// Is a text from outside UTF-8?
#pragma once

#include <cstddef>
#include <optional>
#include <string_view>

namespace fathom {

/// The offset of the first byte that does not belong to a well-formed character (Unicode 15, table 3-7: no
/// overlong forms, no surrogates, nothing above U+10FFFF); nothing when the text is valid.
std::optional<std::size_t> find_invalid_utf8(std::string_view text);

}  // namespace fathom
