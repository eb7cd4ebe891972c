#include "formats/text_format.h"

#include <algorithm>
#include <cctype>
#include <nlohmann/json.hpp>

#include "base/error.h"
#include "formats/json_records.h"

namespace fathom {
namespace {

namespace fs = std::filesystem;

constexpr const char *unpack = "unpack it first, or pack it with zstd",
                     *as_lines =
                         "write its rows as JSON lines first (pandas: to_json(\"a.jsonl\", "
                         "orient=\"records\", lines=True))",
                     *extract = "extract its text first";

/// What no text begins with.
struct Signature {
  std::size_t at;
  std::string_view bytes;
  const char *name, *remedy;
};
using namespace std::string_view_literals;
constexpr std::array signatures = {
    Signature{0, "PAR1"sv, "Parquet", as_lines},
    Signature{0, "ARROW1"sv, "Arrow", as_lines},
    Signature{0, "\xff\xff\xff\xff"sv, "an Arrow stream", as_lines},
    Signature{0, "Obj\x01"sv, "Avro", as_lines},
    Signature{0, "SQLite format 3\0"sv, "an SQLite database", as_lines},
    Signature{0, "\x1f\x8b"sv, "gzip", unpack},
    Signature{4, "1AY&SY"sv, "bzip2", unpack},
    Signature{0,
              "\xfd"
              "7zXZ\0"sv,
              "xz", unpack},
    Signature{0, "\x04\x22\x4d\x18"sv, "lz4", unpack},
    Signature{0, "7z\xbc\xaf\x27\x1c"sv, "7z", unpack},
    Signature{0, "Rar!\x1a\x07"sv, "RAR", unpack},
    Signature{0, "PK\x03\x04"sv, "a ZIP archive (or a document in one: docx, xlsx, epub)", unpack},
    Signature{257, "ustar\0"sv, "a tar archive", "take its files out first"},
    Signature{0, "%PDF-"sv, "PDF", extract},
    Signature{0, "{\\rtf"sv, "RTF", extract},
    Signature{0, "\xd0\xcf\x11\xe0"sv, "an Office document", extract},
    Signature{0, "\xff\xfe"sv, "UTF-16", "convert it: iconv -f UTF-16 -t UTF-8"},
    Signature{0, "\xfe\xff"sv, "UTF-16", "convert it: iconv -f UTF-16 -t UTF-8"},
};

/// What is known by its name alone.
struct Ending {
  std::string_view ending;
  const char *name, *remedy;
};
constexpr std::array endings = {
    Ending{".csv", "CSV", as_lines},         Ending{".tsv", "TSV", as_lines},
    Ending{".parquet", "Parquet", as_lines}, Ending{".arrow", "Arrow", as_lines},
    Ending{".feather", "Arrow", as_lines},
};

std::string lower(std::string text) {
  for (char& c : text) c = static_cast<char>(std::tolower(static_cast<unsigned char>(c)));
  return text;
}

/// ".jsonl" of "a.JSONL.zst".
std::string ending_of(const fs::path& file) {
  return lower((is_named_zstd(file) ? file.stem() : file.filename()).extension().string());
}

bool is_named_json(const fs::path& file) { return ending_of(file) == ".json" || is_named_json_lines(file); }

[[noreturn]] void refuse(const fs::path& file, const char* name, const char* remedy) {
  fail("{}: {} is not read, expected text or JSON: {}", file.string(), name, remedy);
}

void refuse_binary(const fs::path& file, std::string_view head) {
  for (const Signature& known : signatures)
    if (head.substr(std::min(known.at, head.size())).starts_with(known.bytes))
      refuse(file, known.name, known.remedy);
  // A zero byte that got into a large text is no reason to refuse it.
  const auto zeros = static_cast<std::size_t>(std::ranges::count(head, '\0'));
  if (zeros * 1000 <= head.size()) return;
  std::array<std::size_t, 2> at{};  // even places, odd places
  for (std::size_t i = 0; i < head.size(); ++i)
    if (head[i] == '\0') ++at[i % 2];
  if (zeros * 3 >= head.size() && std::ranges::find(at, 0U) != at.end())
    refuse(file, "UTF-16",
           at[0] == 0 ? "convert it: iconv -f UTF-16LE -t UTF-8" : "convert it: iconv -f UTF-16BE -t UTF-8");
  fail("{}: byte {} is zero, as in no text: a binary file is not read, expected text or JSON", file.string(),
       head.find('\0'));
}

std::string_view without_blanks(std::string_view text) {
  const std::size_t first = text.find_first_not_of(" \t\r\n");
  return first == std::string_view::npos ? std::string_view() : text.substr(first);
}

/// {"name": ..., which no programming language and no markup has at the beginning of a file.
bool begins_with_key(std::string_view object) {
  const std::string_view name = without_blanks(object.substr(1));
  if (!name.starts_with('"')) return false;
  std::size_t end = 1;
  while (end < name.size() && name[end] != '"') end += name[end] == '\\' ? 2 : 1;
  return end < name.size() && without_blanks(name.substr(end + 1)).starts_with(':');
}

/// A JSON object, or a list of them, and not a text that begins with one.
bool looks_like_json(std::string_view head) {
  std::string_view text = without_blanks(head);
  const bool list = text.starts_with('[');
  if (list) text = without_blanks(text.substr(1));
  if (!text.starts_with('{') || !begins_with_key(text)) return false;
  const std::size_t end = ObjectScanner().end_in(text);
  if (end == std::string_view::npos) return true;
  if (!nlohmann::json::accept(text.substr(0, end))) return false;
  const std::string_view rest = without_blanks(text.substr(end));
  if (list && rest.starts_with(']')) return without_blanks(rest.substr(1)).empty();
  return rest.empty() || rest[0] == (list ? ',' : '{');
}

/// Whether the first line is an object by itself. A line that ends within an object is one of several, unless
/// it is torn within a string, which in JSON no line can be.
bool lies_in_lines(std::string_view head) {
  const std::string_view text = without_blanks(head);
  if (text.starts_with('[')) return false;
  ObjectScanner scanner;
  const std::size_t line = text.find('\n');
  return line == std::string_view::npos || scanner.end_in(text.substr(0, line)) != std::string_view::npos ||
         scanner.in_string() || !text.starts_with('{');
}

}  // namespace

TextFormat text_format(const std::string& name) {
  const auto found = std::ranges::find(text_format_names, name);
  if (found == text_format_names.end())
    fail_usage("--text-format is '{}', expected {}", name, fmt::join(text_format_names, ", "));
  return static_cast<TextFormat>(found - text_format_names.begin());
}

std::string_view layout_name(TextLayout layout) {
  switch (layout) {
    case TextLayout::text:
      return "plain text";
    case TextLayout::json_lines:
      return "JSON lines";
    case TextLayout::json_values:
      break;
  }
  return "JSON";
}

TextLayout find_layout(const fs::path& file, std::string_view head, TextFormat wanted) {
  refuse_binary(file, head);
  const auto known = std::ranges::find(endings, ending_of(file), &Ending::ending);
  if (wanted == TextFormat::automatic && known != endings.end()) {
    fail("{}: {} is not read: {}; --text-format text learns it as it stands", file.string(), known->name,
         known->remedy);
  }
  const bool json = wanted == TextFormat::json ||
                    (wanted == TextFormat::automatic && (is_named_json(file) || looks_like_json(head)));
  if (!json) return TextLayout::text;
  return lies_in_lines(head) ? TextLayout::json_lines : TextLayout::json_values;
}

bool is_named_text(const fs::path& file) {
  const std::string ending = ending_of(file);
  return ending == ".txt" || ending == ".md" || is_named_json(file);
}

bool is_named_json_lines(const fs::path& file) {
  const std::string ending = ending_of(file);
  return ending == ".jsonl" || ending == ".ndjson" || ending == ".jsonlines";
}

bool is_named_zstd(const fs::path& file) { return lower(file.extension().string()) == ".zst"; }

}  // namespace fathom
