// What a tokenizer does to a text before it is cut: Unicode normal forms, replacements, a space in front.
#pragma once

#include <functional>
#include <optional>
#include <string>
#include <vector>

#include "base/json.h"
#include "text/regex.h"

namespace fathom {

/// "pattern": {"String": s} or {"Regex": r}, as Replace and Split have it.
class TextPattern {
 public:
  /// Reads field "pattern" of `object`. Throws Error naming it.
  explicit TextPattern(const JsonObject& object);
  explicit TextPattern(std::string literal) : literal_(std::move(literal)) {}
  std::vector<Stretch> find_all(std::string_view text) const;
  std::string replace_all(std::string_view text, std::string_view content) const;

 private:
  std::string literal_;  // used when there is no regex
  std::optional<Regex> regex_;
};

class Normalizer {
 public:
  Normalizer() = default;  ///< changes nothing
  /// From the object of tokenizer.json: NFC, NFD, NFKC, NFKD, Lowercase, Strip, Prepend, Replace, Sequence.
  /// Throws Error naming the field; others are refused by name.
  explicit Normalizer(const JsonObject& object) { add(object, 0); }

  /// Of valid UTF-8. `at_start` (the text is the beginning of the input) becomes false when the beginning is
  /// cut off: Metaspace's "first" looks at that.
  std::string operator()(std::string text, bool& at_start) const;

 private:
  void add(const JsonObject& object, int depth);
  using Step = std::function<std::string(std::string, bool& at_start)>;
  std::vector<Step> steps_;
};

/// A field that is a string of one character. Throws Error naming it.
std::string read_character(const JsonObject& object, const std::string& key);

/// Sequences may hold sequences; this many deep at most.
constexpr int deepest_sequence = 8;

}  // namespace fathom
