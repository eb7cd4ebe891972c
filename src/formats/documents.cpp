#include "formats/documents.h"

#include <algorithm>
#include <nlohmann/json.hpp>
#include <string_view>

#include "base/error.h"
#include "base/progress.h"
#include "formats/byte_stream.h"
#include "formats/json_records.h"
#include "formats/utf8.h"

namespace fathom {
namespace {

namespace fs = std::filesystem;

using Take = std::function<bool(Document&& document)>;

constexpr std::size_t largest_document = std::size_t{1} << 30;
constexpr std::size_t piece_bytes = std::size_t{1} << 20;
// So many files are spoken of, and fields of a record.
constexpr std::size_t most_notes = 10, most_names = 8;

/// Takes the string behind one key of a JSON object, and keeps nothing else of it.
class FieldReader : public nlohmann::json_sax<nlohmann::json> {
 public:
  explicit FieldReader(const std::string& field) : field_(field) {}

  std::string text;
  bool found = false, is_object = false, is_list = false;
  std::string problem;
  std::vector<std::string> names;  // of the fields, for a message

  bool null() override { return value("null"); }
  bool boolean(bool) override { return value("a boolean"); }
  bool number_integer(number_integer_t) override { return value("a number"); }
  bool number_unsigned(number_unsigned_t) override { return value("a number"); }
  bool number_float(number_float_t, const string_t&) override { return value("a number"); }
  bool binary(binary_t&) override { return value("binary"); }
  bool string(string_t& content) override {
    if (wanted_ && depth_ == 1) {
      text = std::move(content);
      found = true;
      wanted_ = false;
    }
    return true;
  }
  bool start_object(std::size_t) override {
    if (depth_ == 0) is_object = true;
    return value("an object") && ++depth_ > 0;
  }
  bool start_array(std::size_t) override {
    is_list = wanted_ && depth_ == 1;
    return value("a list") && ++depth_ > 0;
  }
  bool end_object() override { return depth_-- > 0; }
  bool end_array() override { return depth_-- > 0; }
  bool key(string_t& name) override {
    if (depth_ != 1) return true;
    wanted_ = name == field_;
    if (names.size() < most_names) names.push_back(name);
    return true;
  }
  bool parse_error(std::size_t position, const std::string&, const nlohmann::json::exception&) override {
    problem = fmt::format("not valid JSON from its byte {} on", position);
    return false;
  }

 private:
  /// A value that is no string: false ends the parse.
  bool value(std::string_view what) {
    if (!wanted_ || depth_ != 1) return true;
    problem = fmt::format("field '{}' is {}, expected a string", field_, what);
    return false;
  }

  const std::string& field_;
  std::int64_t depth_ = 0;
  bool wanted_ = false;
};

void check_conversation(const Json& messages, const std::string& field, const std::string& where) {
  const auto is_message = [](const Json& message) {
    return message.is_object() && message.contains("role") && message["role"].is_string();
  };
  if (!messages.is_array() || messages.empty() || !std::ranges::all_of(messages, is_message)) {
    fail("{}: field '{}' is no conversation, expected a list of messages {{\"role\", \"content\"}}", where,
         field);
  }
}

/// A text or a conversation.
Document read_record(std::string_view record, const std::string& field, const std::string& where) {
  if (const auto bad = find_invalid_utf8(record)) fail("{}: its byte {} is not valid UTF-8", where, *bad);
  const std::string first = field.empty() ? "text" : field;
  FieldReader reader(first);
  nlohmann::json::sax_parse(record, &reader);
  if (reader.is_list) {  // the reader has stopped there
    const Json object = parse_json(record, where);
    check_conversation(object[first], first, where);
    return {.text = {}, .conversation = object[first]};
  }
  if (!reader.problem.empty()) fail("{}: {}", where, reader.problem);
  if (!reader.is_object) fail("{}: expected an object with field '{}'", where, first);
  if (reader.found) return {.text = std::move(reader.text), .conversation = {}};
  if (field.empty()) {
    const Json object = parse_json(record, where);
    if (object.contains("messages")) {
      check_conversation(object["messages"], "messages", where);
      return {.text = {}, .conversation = object["messages"]};
    }
  }
  fail("{}: {} is missing; it has {}", where,
       field.empty() ? "field 'text' (or 'messages')" : fmt::format("field '{}'", field),
       reader.names.empty() ? "none" : fmt::format("'{}'", fmt::join(reader.names, "', '")));
}

bool is_ink(char c) { return c > 0x20 && c < 0x7f; }

/// Where a long text can be cut: after a line end between two characters that are neither spaces nor line
/// ends, where tokenizers' patterns cut too; else after any line end, else between any two characters.
std::size_t place_to_cut(std::string_view text) {
  for (std::size_t i = text.size() - 1; i >= 2; --i) {
    if (text[i - 1] == '\n' && is_ink(text[i - 2]) && is_ink(text[i])) return i;
  }
  const std::size_t line_end = text.rfind('\n');
  if (line_end != std::string_view::npos) return line_end + 1;
  const auto continues = [](char c) { return (static_cast<unsigned char>(c) & 0xc0U) == 0x80; };
  std::size_t cut = text.size() - 1;
  while (cut > text.size() - 4 && continues(text[cut])) --cut;
  return cut;
}

bool take_text(const std::string& file, ByteStream& stream, const Take& take) {
  std::string text;
  std::size_t before = 0;  // bytes given out
  const auto give = [&](std::size_t size, bool more) {
    Document piece{.text = text.substr(0, size), .conversation = {}, .more = more};
    if (const auto bad = find_invalid_utf8(piece.text))
      fail("{}: byte {} is not valid UTF-8; convert the file with iconv", file, before + *bad);
    text.erase(0, size);
    before += size;
    return take(std::move(piece));
  };
  for (std::string_view bytes = stream.next(); !bytes.empty(); bytes = stream.next()) {
    text.append(bytes);
    if (text.size() >= piece_bytes && !give(place_to_cut(text), true)) return false;
  }
  if (text.empty() && before == 0) fail("{}: empty, expected text", file);
  return give(text.size(), false);
}

bool take_records(const fs::path& file, ByteStream& stream, TextLayout layout, const TextReading& reading,
                  const Take& take) {
  const bool as_asked = reading.format == TextFormat::json || is_named_json_lines(file);
  bool first = true;
  const TakeRecord read = [&](std::string_view record, std::int64_t line, const std::string& where) {
    Document document = read_record(record, reading.field, where);
    document.line = line;
    first = false;
    return take(std::move(document));
  };
  const auto records = layout == TextLayout::json_lines ? take_json_lines : take_json_values;
  try {
    return records(file.string(), stream, read);
  } catch (const Error& error) {
    if (!first || as_asked) throw;
    fail("{}; --text-format text learns the file as it stands", error.what());
  }
}

std::string beginning(const Document& document) {
  if (document.conversation.is_null()) return document.text;
  const Json content = document.conversation.front().value("content", Json());
  return content.is_string() ? content.get<std::string>() : content.dump();
}

/// "a.json: JSON lines, begins "Hello there"".
void note_layout(const fs::path& file, TextLayout layout, const Document& first) {
  constexpr std::size_t most = 60;
  const std::string text = beginning(first);
  print_note(fmt::format("{}: {}{}, begins {}{}", file.string(), layout_name(layout),
                         first.conversation.is_null() ? "" : " of conversations",
                         Json(text.substr(0, most)).dump(-1, ' ', false, Json::error_handler_t::ignore),
                         text.size() > most ? "..." : ""));
}

}  // namespace

void read_documents(const std::vector<fs::path>& files, const TextReading& reading, const Take& take) {
  for (std::size_t i = 0; i < files.size(); ++i) {
    ByteStream stream(files[i]);
    const TextLayout layout = find_layout(files[i], stream.head(), reading.format);
    bool first = true;
    const Take take_next = [&](Document&& document) {
      if (first && i < most_notes) note_layout(files[i], layout, document);
      if (first && i == most_notes) print_note(fmt::format("and {} more files", files.size() - i));
      first = false;
      document.file = static_cast<std::int64_t>(i);
      return take(std::move(document));
    };
    const bool more = layout == TextLayout::text ? take_text(files[i].string(), stream, take_next)
                                                 : take_records(files[i], stream, layout, reading, take_next);
    if (!more) return;
  }
}

void for_each_document(const std::vector<fs::path>& files, const TextReading& reading,
                       const std::function<bool(std::string&& text)>& take) {
  std::string text;
  read_documents(files, reading, [&](Document&& document) {
    const std::string file = files[static_cast<std::size_t>(document.file)].string();
    if (!document.conversation.is_null())
      fail("{}: line {}: a conversation, expected a text in its place", file, document.line);
    if (text.size() + document.text.size() > largest_document) {
      fail("{}: more than {} MB in one document; give it as JSON lines, one document a line", file,
           largest_document >> 20);
    }
    text = text.empty() ? std::move(document.text) : text + document.text;
    return document.more || take(std::exchange(text, {}));
  });
}

std::string read_text(const fs::path& file, TextFormat format) {
  std::string all;
  for_each_document({file}, {.field = "text", .format = format}, [&](std::string&& text) {
    if (all.empty()) {
      all = std::move(text);
    } else {
      all.append("\n\n").append(text);
    }
    if (all.size() > largest_document) {
      fail("{}: more than {} MB of text in all; give a smaller part of it", file.string(),
           largest_document >> 20);
    }
    return true;
  });
  return all;
}

}  // namespace fathom
