// How values look as text: Python's str and repr, and JSON as json.dumps writes it.
#include <algorithm>
#include <charconv>
#include <cmath>

#include "base/error.h"
#include "text/jinja/text.h"
#include "text/jinja/value.h"

namespace fathom::jinja {
namespace {

/// repr(float): the shortest digits that read back as the same number, in fixed notation from 1e-4 to 1e16.
std::string float_text(double number) {
  if (std::isnan(number)) return "nan";
  if (std::isinf(number)) return number < 0 ? "-inf" : "inf";
  char buffer[64];
  const double size = std::abs(number);
  const bool fixed = size == 0 || (size >= 1e-4 && size < 1e16);
  const auto end = std::to_chars(buffer, buffer + sizeof buffer, number,
                                 fixed ? std::chars_format::fixed : std::chars_format::scientific);
  std::string text(buffer, end.ptr);
  if (fixed && text.find('.') == std::string::npos) text += ".0";
  return text;
}

/// repr(str)
std::string string_repr(std::string_view text) {
  const bool has_single = text.find('\'') != std::string_view::npos;
  const bool has_double = text.find('"') != std::string_view::npos;
  const char quote = has_single && !has_double ? '"' : '\'';
  std::string result(1, quote);
  for (const char32_t c : decode_utf8(text)) {
    if (c == static_cast<char32_t>(quote) || c == '\\') {
      result += '\\';
      result += static_cast<char>(c);
    } else if (c == '\n') {
      result += "\\n";
    } else if (c == '\r') {
      result += "\\r";
    } else if (c == '\t') {
      result += "\\t";
    } else if (c < 0x20 || (c >= 0x7f && c < 0xa1) || c == 0xad) {
      result += fmt::format("\\x{:02x}", static_cast<unsigned>(c));
    } else if (c != ' ' && is_space(c)) {
      result += fmt::format("\\u{:04x}", static_cast<unsigned>(c));
    } else {
      result += encode_utf8(c);
    }
  }
  return result + quote;
}

std::string json_string(std::string_view text, bool ascii) {
  std::string result = "\"";
  const auto escape = [&](unsigned unit) { result += fmt::format("\\u{:04x}", unit); };
  for (const char32_t c : decode_utf8(text)) {
    switch (c) {
      case '"':
        result += "\\\"";
        break;
      case '\\':
        result += "\\\\";
        break;
      case '\n':
        result += "\\n";
        break;
      case '\r':
        result += "\\r";
        break;
      case '\t':
        result += "\\t";
        break;
      case '\f':
        result += "\\f";
        break;
      case '\b':
        result += "\\b";
        break;
      default:
        if (c < 0x20 || (ascii && c > 0x7e && c < 0x10000)) {
          escape(c);
        } else if (ascii && c >= 0x10000) {  // UTF-16's pair
          escape(0xd800 + ((c - 0x10000) >> 10));
          escape(0xdc00 + ((c - 0x10000) & 0x3ff));
        } else {
          result += encode_utf8(c);
        }
    }
  }
  return result + '"';
}

std::string json_number(const Value& value) {
  if (value.is_bool()) return value.truth() ? "true" : "false";
  if (value.is_integer()) return std::to_string(value.integer());
  const double number = value.number();
  if (std::isnan(number)) return "NaN";
  if (std::isinf(number)) return number < 0 ? "-Infinity" : "Infinity";
  return float_text(number);
}

/// A dict's key; JSON knows only strings.
std::string json_key(const Value& key) {
  if (key.is_string()) return *key.string();
  if (key.is_none()) return "null";
  if (key.is_number()) return json_number(key);
  fail("a {} cannot be a key in JSON", key.type_name());
}

class JsonWriter {
 public:
  JsonWriter(const JsonStyle& style, Work& work) : style_(style), work_(work) {}

  void write(const Value& value) {
    work_.spend_elements(1);
    if (value.is_none()) {
      add("null");
    } else if (value.is_number()) {
      add(json_number(value));
    } else if (value.is_string()) {
      work_.spend(value.string()->size());
      add(json_string(*value.string(), style_.ascii));
    } else if (const Dict* dict = value.dict()) {
      write_dict(*dict);
    } else if (const Sequence* list = value.sequence();
               list != nullptr &&
               (list->kind == Sequence::Kind::list || list->kind == Sequence::Kind::tuple)) {
      write_block('[', ']', list->items.size(), [&](std::size_t i) { write(list->items[i]); });
    } else {
      fail("{} cannot be written as JSON",
           value.is_undefined() ? value.what() : fmt::format("a {}", value.type_name()));
    }
  }

  std::string take() { return std::move(text_); }

 private:
  void add(std::string_view part) {
    work_.spend(part.size());
    text_ += part;
  }

  void break_line() {
    if (!style_.lines) return;
    add("\n");
    for (int i = 0; i < level_; i++) add(style_.indent);
  }

  template <typename WriteItem>
  void write_block(char open, char close, std::size_t count, const WriteItem& write_item) {
    add(std::string_view(&open, 1));
    level_++;
    for (std::size_t i = 0; i < count; i++) {
      if (i > 0) add(style_.item_separator);
      break_line();
      write_item(i);
    }
    level_--;
    if (count > 0) break_line();
    add(std::string_view(&close, 1));
  }

  void write_dict(const Dict& dict) {
    std::vector<const std::pair<Value, Value>*> entries;
    for (const auto& entry : dict.entries) entries.push_back(&entry);
    if (style_.sort_keys) {
      work_.spend_elements(entries.size());
      std::stable_sort(entries.begin(), entries.end(), [&](const auto* a, const auto* b) {
        return compare(a->first, b->first, work_) == std::partial_ordering::less;
      });
    }
    write_block('{', '}', entries.size(), [&](std::size_t i) {
      add(json_string(json_key(entries[i]->first), style_.ascii));
      add(style_.key_separator);
      write(entries[i]->second);
    });
  }

  const JsonStyle& style_;
  Work& work_;
  std::string text_;
  int level_ = 0;
};

std::string sequence_repr(const Sequence& sequence, Work& work) {
  std::string text;
  for (std::size_t i = 0; i < sequence.items.size(); i++)
    text += (i > 0 ? ", " : "") + to_repr(sequence.items[i], work);
  work.spend(text.size());
  switch (sequence.kind) {
    case Sequence::Kind::tuple:
      return "(" + text + (sequence.items.size() == 1 ? ",)" : ")");
    case Sequence::Kind::keys:
      return "dict_keys([" + text + "])";
    case Sequence::Kind::values:
      return "dict_values([" + text + "])";
    case Sequence::Kind::items:
      return "dict_items([" + text + "])";
    case Sequence::Kind::generator:
      return "<generator object>";
    case Sequence::Kind::list:
      break;
  }
  return "[" + text + "]";
}

}  // namespace

std::string to_text(const Value& value, Work& work) {
  if (value.is_undefined()) return "";
  if (const auto* text = value.string()) {
    work.spend(text->size());
    return *text;
  }
  return to_repr(value, work);
}

std::string to_repr(const Value& value, Work& work) {
  work.spend_elements(1);
  if (value.is_undefined()) return "Undefined";
  if (value.is_none()) return "None";
  if (value.is_bool()) return value.truth() ? "True" : "False";
  if (value.is_integer()) return std::to_string(value.integer());
  if (value.is_float()) return float_text(value.number());
  if (const auto* text = value.string()) {
    work.spend(text->size() * 4);
    return string_repr(*text);
  }
  if (const auto* sequence = value.sequence()) return sequence_repr(*sequence, work);
  if (const auto* dict = value.dict()) {
    std::string text;
    for (const auto& [key, element] : dict->entries)
      text += (text.empty() ? "" : ", ") + to_repr(key, work) + ": " + to_repr(element, work);
    work.spend(text.size());
    return "{" + text + "}";
  }
  return fmt::format("<{}>", value.type_name());
}

std::string to_json(const Value& value, const JsonStyle& style, Work& work) {
  JsonWriter writer(style, work);
  writer.write(value);
  return writer.take();
}

}  // namespace fathom::jinja
