// What a file of text is: plain text or records of JSON, by its name and by how it begins. What is neither is
// refused by name, before its bytes are learned as text.
#pragma once

#include <array>
#include <filesystem>
#include <string>
#include <string_view>

namespace fathom {

/// How the user wants files to be read.
enum class TextFormat {
  automatic,  ///< by name and content
  text,       ///< as they stand
  json        ///< records of JSON
};

constexpr std::array<const char*, 3> text_format_names = {"auto", "text", "json"};

/// The format of one of these names. Throws UsageError for any other.
TextFormat text_format(const std::string& name);

/// How files are to be read.
struct TextReading {
  /// Of JSON's records. Empty: "text" or, in a record without it, "messages".
  std::string field;
  TextFormat format = TextFormat::automatic;
};

/// What a file is found to be.
enum class TextLayout {
  text,
  json_lines,  ///< a JSON object on each line
  json_values  ///< JSON objects over any number of lines, one after the other or in a list
};

/// "plain text", "JSON lines", "JSON": for a message.
std::string_view layout_name(TextLayout layout);

/// What the file that begins with `head` (the whole of a short one; at least its first 64 KB) is to be read
/// as. JSON is what is called so (.json, .jsonl, .ndjson, in any case, with or without .zst) and what begins
/// with a JSON object or a list of them, whatever it is called. Throws Error naming the file, what it is and
/// the remedy: tables, archives, documents and other binary files, UTF-16.
TextLayout find_layout(const std::filesystem::path& file, std::string_view head, TextFormat wanted);

/// Whether a directory's file is meant as text: .txt, .md and JSON's names, as above.
bool is_named_text(const std::filesystem::path& file);

/// Whether the name, in any case, ends in .jsonl or the like: then each line is a record.
bool is_named_json_lines(const std::filesystem::path& file);

/// Whether the name, in any case, ends in .zst.
bool is_named_zstd(const std::filesystem::path& file);

}  // namespace fathom
