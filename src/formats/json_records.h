// The records of a JSON file, cut out of a stream of its bytes: a line each, or objects over several lines.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <string>
#include <string_view>

#include "formats/byte_stream.h"

namespace fathom {

/// Finds where a JSON object ends, by its brackets alone.
class ObjectScanner {
 public:
  /// `text` begins with the object, or goes on where the text of the call before ended. Its end, one past the
  /// last bracket; npos if that is not in it.
  std::size_t end_in(std::string_view text);

  bool in_string() const { return in_string_; }

 private:
  std::int64_t depth_ = 0;
  bool in_string_ = false, escaped_ = false;
};

/// A record, where it begins (counted from 1), and its name in messages ("a.json: line 7"). Says whether more
/// are wanted.
using TakeRecord = std::function<bool(std::string_view record, std::int64_t line, const std::string& where)>;

/// Gives all lines that are not blank to `take`; `file` names the stream in messages. False when it has
/// enough. Throws Error: a line of more than 256 MB, no record at all.
bool take_json_lines(const std::string& file, ByteStream& stream, const TakeRecord& take);

/// The same of objects one after the other, or within one list. Throws Error: what stands between them, an
/// object of more than 256 MB, an end within an object or the list.
bool take_json_values(const std::string& file, ByteStream& stream, const TakeRecord& take);

}  // namespace fathom
