// Regular expressions of tokenizer files. They are written for Oniguruma (which Hugging Face's `tokenizers`
// uses, in its Ruby syntax) and run by PCRE2's compiler to machine code.
#pragma once

#include <cstddef>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

namespace fathom {

/// A stretch [begin, end) of a text that a pattern matched, or that lies between two matches.
struct Stretch {
  std::size_t begin, end;
  bool match;
};

class Regex {
 public:
  /// Compiles. `field` ("FILE: field 'x'") begins the message of the Error that a wrong pattern, or one that
  /// means different things to Oniguruma and PCRE2, gives.
  Regex(std::string_view pattern, const std::string& field);

  /// Cuts valid UTF-8 into matches and what lies between them, in order, without gaps. A pattern may match
  /// nothing at a place: then there is an empty match. Throws Error when matching takes absurdly long.
  std::vector<Stretch> find_all(std::string_view text) const;

  struct Code;

 private:
  std::shared_ptr<const Code> code_;
};

}  // namespace fathom
