// JSON from outside, read with errors that name the file and the field.
#pragma once

#include <cstdint>
#include <filesystem>
#include <functional>
#include <limits>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <vector>

namespace fathom {

/// Keeps the order of keys, so that a file that is read and written again looks the same.
using Json = nlohmann::ordered_json;

/// Parses a JSON file. Throws Error with the file's name and the parser's position.
Json read_json(const std::filesystem::path& path, std::size_t limit = std::size_t{256} << 20);

/// Parses JSON text that came from `where` (a file's name, for the message).
Json parse_json(std::string_view text, const std::string& where);

/// "at line 3, column 5: ...": what the parser says, without its own prefix, and short.
std::string parse_problem(const Json::exception& error);

/// What differs from `expected`, for a message: "options.seed (was 1, is 2), text (...)"; empty if nothing.
std::string differences(const Json& found, const Json& expected, const std::string& prefix = "");

/// An object inside a JSON file, with the way to it. Every getter checks type and range; the error says
/// "FILE: field 'a.b' is X, expected Y". Getters with a fallback also take it for null.
class JsonObject {
 public:
  /// `where` is the file's name. Throws Error if `value` is not an object.
  JsonObject(const Json& value, std::string where, std::string prefix = "");

  bool has(const std::string& key) const;  ///< present and not null
  const Json& raw() const { return *value_; }
  const Json& at(const std::string& key) const;  ///< throws Error when absent

  std::int64_t integer(const std::string& key, std::int64_t least, std::int64_t most) const;
  std::int64_t integer_or(const std::string& key, std::int64_t fallback, std::int64_t least,
                          std::int64_t most) const;
  double number(const std::string& key) const;  ///< finite
  double number_or(const std::string& key, double fallback) const;
  bool boolean_or(const std::string& key, bool fallback) const;
  std::string string(const std::string& key) const;
  std::string string_or(const std::string& key, const std::string& fallback) const;
  JsonObject object(const std::string& key) const;
  std::optional<JsonObject> object_if(const std::string& key) const;
  /// An array, checked to have at most `most` elements.
  const Json& array(const std::string& key, std::size_t most = std::numeric_limits<std::size_t>::max()) const;

  /// The elements of an array of objects, each with its own way ("key[3]").
  std::vector<JsonObject> objects(const std::string& key) const;

  /// "FILE: field 'prefix.key'": the start of a message about that field.
  std::string field(const std::string& key) const;

 private:
  const Json* value_;
  std::string where_, prefix_;
};

/// Calls take(row) for each line of JSON lines that is not blank, until it returns false. Throws Error with
/// "FILE, line N" where a line is not a JSON object.
void for_each_json_line(std::string_view text, const std::string& file,
                        const std::function<bool(const JsonObject&)>& take);

}  // namespace fathom
