// What a mistyped word was probably meant to be.
#pragma once

#include <string>
#include <string_view>
#include <vector>

namespace fathom {

/// ", did you mean 'NAME'?" for the known name that is most like `word`, or nothing where none is: at least
/// half of the word must be right, or one the beginning of the other.
std::string did_you_mean(std::string_view word, const std::vector<std::string>& known);

}  // namespace fathom
