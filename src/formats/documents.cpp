#include "formats/documents.h"

#include <zstd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <fstream>
#include <memory>
#include <nlohmann/json.hpp>
#include <string_view>

#include "base/error.h"
#include "formats/utf8.h"

namespace fathom {
namespace {

constexpr std::size_t largest_document = std::size_t{1} << 30;
// A line is held three times while it is parsed (the line, the parser's token, the document).
constexpr std::size_t longest_line = std::size_t{1} << 28;

/// The bytes of a file, decompressed on the way where its name ends in .zst. Memory: two buffers of 128 KB,
/// and the window of a zstd frame, which the library bounds at 128 MB.
class ByteStream {
 public:
  explicit ByteStream(const std::filesystem::path& path)
      : where_(path.string()), file_(path, std::ios::binary) {
    if (!file_) fail("{}: cannot open: {}", where_, std::strerror(errno));
    if (std::filesystem::is_directory(path)) fail("{}: a directory, expected a file of text", where_);
    if (path.extension() == ".zst") {
      decompressor_.reset(ZSTD_createDCtx());
      compressed_.resize(ZSTD_DStreamInSize());
    }
  }

  /// The next bytes, valid until the next call; empty at the end.
  std::string_view next() {
    if (!decompressor_) return read(buffer_);
    ZSTD_outBuffer out{buffer_.data(), buffer_.size(), 0};
    while (out.pos == 0) {
      if (in_.pos == in_.size && !buffered_) {
        const std::string_view more = read(compressed_);
        if (more.empty()) {
          if (frame_open_)
            fail("{}: the zstd data end within a frame: the file is torn, fetch it again", where_);
          return {};
        }
        in_ = {more.data(), more.size(), 0};
      }
      const std::size_t left = ZSTD_decompressStream(decompressor_.get(), &out, &in_);
      if (ZSTD_isError(left) != 0) fail("{}: not valid zstd: {}", where_, ZSTD_getErrorName(left));
      frame_open_ = left != 0;
      // A full buffer within a frame: the decompressor may hold back more of it.
      buffered_ = out.pos == out.size && frame_open_;
    }
    return {buffer_.data(), out.pos};
  }

 private:
  std::string_view read(std::string& into) {
    file_.read(into.data(), static_cast<std::streamsize>(into.size()));
    if (file_.bad()) fail("{}: cannot read: {}", where_, std::strerror(errno));
    return {into.data(), static_cast<std::size_t>(file_.gcount())};
  }

  struct Free {
    void operator()(ZSTD_DCtx* context) const { ZSTD_freeDCtx(context); }
  };

  std::string where_;
  std::ifstream file_;
  std::unique_ptr<ZSTD_DCtx, Free> decompressor_;  // null: the file is plain
  std::string buffer_ = std::string(ZSTD_DStreamOutSize(), '\0');
  std::string compressed_;
  ZSTD_inBuffer in_{nullptr, 0, 0};
  bool frame_open_ = false, buffered_ = false;
};

/// Takes the string behind one key of a JSON object, and keeps nothing else of it.
class FieldReader : public nlohmann::json_sax<nlohmann::json> {
 public:
  explicit FieldReader(const std::string& field) : field_(field) {}

  std::string text;
  bool found = false, is_object = false, is_list = false;
  std::string problem;

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
    if (depth_ == 1) wanted_ = name == field_;
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

void check_line(std::string_view line, const std::string& where) {
  if (const auto bad = find_invalid_utf8(line)) fail("{}: its byte {} is not valid UTF-8", where, *bad);
}

std::string read_line_document(std::string_view line, const std::string& field, const std::string& where) {
  check_line(line, where);
  FieldReader reader(field);
  nlohmann::json::sax_parse(line, &reader);
  if (!reader.problem.empty()) fail("{}: {}", where, reader.problem);
  if (!reader.is_object) fail("{}: expected an object with field '{}'", where, field);
  if (!reader.found) fail("{}: field '{}' is missing", where, field);
  return std::move(reader.text);
}

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
Document read_line_piece(std::string_view line, const std::string& field, const std::string& where) {
  check_line(line, where);
  const std::string first = field.empty() ? "text" : field;
  FieldReader reader(first);
  nlohmann::json::sax_parse(line, &reader);
  if (reader.found && reader.problem.empty()) return {.text = std::move(reader.text), .conversation = {}};
  const bool absent = reader.is_object && !reader.found && reader.problem.empty();
  if (!reader.is_list && !(absent && field.empty())) {
    return {.text = read_line_document(line, first, where), .conversation = {}};  // throws what is wrong
  }
  const Json object = parse_json(line, where);
  const std::string name = reader.is_list ? first : "messages";
  if (!object.contains(name)) fail("{}: neither field 'text' nor 'messages' is there", where);
  check_conversation(object[name], name, where);
  return {.text = {}, .conversation = object[name]};
}

bool is_json_lines(const std::filesystem::path& file) {
  const auto name = file.extension() == ".zst" ? file.stem() : file.filename();
  return name.extension() == ".jsonl" || name.extension() == ".ndjson";
}

using Take = std::function<bool(std::string&& text)>;
using TakeLine = std::function<bool(std::string_view line, std::int64_t number, const std::string& where)>;

/// Gives all lines that are not blank to `take`. False when it has enough.
bool take_lines(const std::filesystem::path& file, const TakeLine& take) {
  ByteStream stream(file);
  std::string line;
  std::int64_t number = 1, documents = 0;
  const auto take_line = [&] {
    if (line.find_first_not_of(" \t\r") == std::string::npos) return true;
    ++documents;
    return take(line, number, fmt::format("{}: line {}", file.string(), number));
  };
  for (std::string_view bytes = stream.next(); !bytes.empty(); bytes = stream.next()) {
    while (!bytes.empty()) {
      const std::size_t end = std::min(bytes.find('\n'), bytes.size());
      if (line.size() + end > longest_line) {
        fail("{}: line {} is longer than {} MB; split the document", file.string(), number,
             longest_line >> 20);
      }
      line.append(bytes.substr(0, end));
      if (end == bytes.size()) break;
      bytes.remove_prefix(end + 1);
      if (!take_line()) return false;
      line.clear();
      ++number;
    }
  }
  if (!take_line()) return false;
  if (documents == 0) fail("{}: empty, expected one JSON object a line", file.string());
  return true;
}

bool take_whole(const std::filesystem::path& file, const Take& take) {
  ByteStream stream(file);
  std::string text;
  for (std::string_view bytes = stream.next(); !bytes.empty(); bytes = stream.next()) {
    if (text.size() + bytes.size() > largest_document) {
      fail("{}: more than {} MB in one document; give it as JSON lines, one document a line", file.string(),
           largest_document >> 20);
    }
    text.append(bytes);
  }
  if (text.empty()) fail("{}: empty, expected text", file.string());
  if (const auto bad = find_invalid_utf8(text)) {
    fail("{}: byte {} is not valid UTF-8; convert the file with iconv", file.string(), *bad);
  }
  return take(std::move(text));
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

constexpr std::size_t piece_bytes = std::size_t{1} << 20;

void take_pieces(const std::filesystem::path& file, const std::function<bool(Document&&)>& take) {
  ByteStream stream(file);
  std::string text;
  std::size_t before = 0;  // bytes given out
  const auto give = [&](std::size_t size, bool more) {
    Document piece{.text = text.substr(0, size), .conversation = {}, .line = 0, .more = more};
    if (const auto bad = find_invalid_utf8(piece.text)) {
      fail("{}: byte {} is not valid UTF-8; convert the file with iconv", file.string(), before + *bad);
    }
    text.erase(0, size);
    before += size;
    return take(std::move(piece));
  };
  for (std::string_view bytes = stream.next(); !bytes.empty(); bytes = stream.next()) {
    text.append(bytes);
    if (text.size() >= piece_bytes && !give(place_to_cut(text), true)) return;
  }
  if (text.empty() && before == 0) fail("{}: empty, expected text", file.string());
  give(text.size(), false);
}

}  // namespace

void read_documents(const std::filesystem::path& file, const std::string& field,
                    const std::function<bool(Document&& document)>& take) {
  if (file.extension() == ".parquet") {
    fail(
        "{}: Parquet is not read; write its rows as JSON lines first (pandas: to_json(..., "
        "orient=\"records\", "
        "lines=True))",
        file.string());
  }
  if (!is_json_lines(file)) return take_pieces(file, take);
  take_lines(file, [&](std::string_view line, std::int64_t number, const std::string& where) {
    Document document = read_line_piece(line, field, where);
    document.line = number;
    return take(std::move(document));
  });
}

void for_each_document(const std::vector<std::filesystem::path>& files, const std::string& field,
                       const Take& take) {
  const TakeLine take_line = [&](std::string_view line, std::int64_t, const std::string& where) {
    return take(read_line_document(line, field, where));
  };
  for (const auto& file : files) {
    if (!(is_json_lines(file) ? take_lines(file, take_line) : take_whole(file, take))) return;
  }
}

std::string read_text(const std::filesystem::path& file, const std::string& field) {
  std::string all;
  for_each_document({file}, field, [&](std::string&& text) {
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
