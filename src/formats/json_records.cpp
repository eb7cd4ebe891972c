#include "formats/json_records.h"

#include <algorithm>

#include "base/error.h"

namespace fathom {
namespace {

// A record is held three times while it is parsed (the record, the parser's token, the document).
constexpr std::size_t longest_record = std::size_t{1} << 28;

template <typename Where>
void append_bounded(std::string& record, std::string_view bytes, const Where& where) {
  if (record.size() + bytes.size() > longest_record)
    fail("{} is longer than {} MB; split the document", where(), longest_record >> 20);
  record.append(bytes);
}

/// Objects and what may stand between them.
class Values {
 public:
  Values(const std::string& file, const TakeRecord& take) : file_(file), take_(take) {}

  bool push(std::string_view bytes) {
    while (!bytes.empty()) {
      if (within_ == Within::object) {
        const std::size_t end = scanner_.end_in(bytes);
        const std::string_view part = bytes.substr(0, end);
        append_bounded(record_, part, [this] { return where(); });
        bytes.remove_prefix(part.size());
        if (end != std::string_view::npos && !give()) return false;
      } else {
        between(bytes.front());
        if (within_ != Within::object) bytes.remove_prefix(1);
      }
    }
    return true;
  }

  void finish() const {
    if (within_ == Within::object) fail("{}: not valid JSON: the file ends within this record", where());
    if (in_list_) fail("{}: the file ends within its list of records: it is torn", file_);
    if (number_ == 0) fail("{}: empty, expected JSON objects", file_);
  }

 private:
  enum class Within { start, object, after_object, after_comma, ended };

  std::string where() const {
    return in_list_ ? fmt::format("{}: record {}, line {}", file_, number_, begin_)
                    : fmt::format("{}: line {}", file_, begin_);
  }

  bool give() {
    const bool more = take_(record_, begin_, where());
    line_ += std::ranges::count(record_, '\n');
    record_.clear();
    scanner_ = {};
    within_ = in_list_ ? Within::after_object : Within::start;
    return more;
  }

  void between(char c) {
    const bool item_may_come = within_ == Within::start || within_ == Within::after_comma;
    if (c == '\n') {
      ++line_;
    } else if (c == '{' && item_may_come) {
      begin_ = line_;
      ++number_;
      within_ = Within::object;
    } else if (c == '[' && !in_list_ && number_ == 0 && within_ == Within::start) {
      in_list_ = true;
    } else if (c == ',' && within_ == Within::after_object) {
      within_ = Within::after_comma;
    } else if (c == ']' && in_list_ && within_ != Within::after_comma) {
      in_list_ = false;
      within_ = Within::ended;
    } else if (c != ' ' && c != '\t' && c != '\r') {
      wrong(c);
    }
  }

  [[noreturn]] void wrong(char found) const {
    const char* expected = within_ == Within::after_object ? "a comma or the list's end"
                           : within_ == Within::ended      ? "nothing after the list"
                                                           : "an object";
    fail("{}: line {}: not valid records of JSON: '{}' after {} of them, expected {}", file_, line_, found,
         number_, expected);
  }

  const std::string& file_;
  const TakeRecord& take_;
  ObjectScanner scanner_;
  std::string record_;
  Within within_ = Within::start;
  bool in_list_ = false;
  std::int64_t line_ = 1, begin_ = 1, number_ = 0;
};

}  // namespace

std::size_t ObjectScanner::end_in(std::string_view text) {
  for (std::size_t i = 0; i < text.size(); ++i) {
    const char c = text[i];
    if (in_string_) {
      if (escaped_) {
        escaped_ = false;
      } else if (c == '\\') {
        escaped_ = true;
      } else if (c == '"') {
        in_string_ = false;
      }
    } else if (c == '"') {
      in_string_ = true;
    } else if (c == '{' || c == '[') {
      ++depth_;
    } else if ((c == '}' || c == ']') && --depth_ <= 0) {
      return i + 1;
    }
  }
  return std::string_view::npos;
}

bool take_json_lines(const std::string& file, ByteStream& stream, const TakeRecord& take) {
  std::string line;
  std::int64_t number = 1, records = 0;
  const auto where = [&] { return fmt::format("{}: line {}", file, number); };
  const auto take_line = [&] {
    if (line.find_first_not_of(" \t\r") == std::string::npos) return true;
    ++records;
    return take(line, number, where());
  };
  for (std::string_view bytes = stream.next(); !bytes.empty(); bytes = stream.next()) {
    while (!bytes.empty()) {
      const std::size_t end = std::min(bytes.find('\n'), bytes.size());
      append_bounded(line, bytes.substr(0, end), where);
      if (end == bytes.size()) break;
      bytes.remove_prefix(end + 1);
      if (!take_line()) return false;
      line.clear();
      ++number;
    }
  }
  if (!take_line()) return false;
  if (records == 0) fail("{}: empty, expected one JSON object a line", file);
  return true;
}

bool take_json_values(const std::string& file, ByteStream& stream, const TakeRecord& take) {
  Values values(file, take);
  for (std::string_view bytes = stream.next(); !bytes.empty(); bytes = stream.next())
    if (!values.push(bytes)) return false;
  values.finish();
  return true;
}

}  // namespace fathom
