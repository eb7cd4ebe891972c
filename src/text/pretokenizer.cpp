#include "text/pretokenizer.h"

#include <algorithm>
#include <array>

#include "base/error.h"
#include "text/unicode.h"

namespace fathom {
namespace {

/// What happens to the stretches that a pattern matches ("behavior"; the names are those of `tokenizers`).
enum class Behaviour { removed, isolated, contiguous, merged_with_previous, merged_with_next };

Behaviour read_behaviour(const JsonObject& object) {
  const std::string name = object.string("behavior");
  if (name == "Removed") return Behaviour::removed;
  if (name == "Isolated") return Behaviour::isolated;
  if (name == "Contiguous") return Behaviour::contiguous;
  if (name == "MergedWithPrevious") return Behaviour::merged_with_previous;
  if (name == "MergedWithNext") return Behaviour::merged_with_next;
  fail("{} is '{}', expected Removed, Isolated, Contiguous, MergedWithPrevious or MergedWithNext",
       object.field("behavior"), name);
}

/// Joins neighbours of `parts` as `behaviour` says; what remains are the pieces.
std::vector<Stretch> arrange(std::vector<Stretch> parts, Behaviour behaviour) {
  if (behaviour == Behaviour::isolated) return parts;
  if (behaviour == Behaviour::removed) {
    std::erase_if(parts, [](const Stretch& part) { return part.match; });
    return parts;
  }
  const bool backwards = behaviour == Behaviour::merged_with_next;
  if (backwards) std::reverse(parts.begin(), parts.end());
  std::vector<Stretch> joined;
  bool previous = false;
  for (const Stretch& part : parts) {
    const bool join = behaviour == Behaviour::contiguous ? part.match == previous : part.match && !previous;
    if (join && !joined.empty()) {
      joined.back().begin = std::min(joined.back().begin, part.begin);
      joined.back().end = std::max(joined.back().end, part.end);
    } else {
      joined.push_back(part);
    }
    previous = part.match;
  }
  if (backwards) std::reverse(joined.begin(), joined.end());
  return joined;
}

/// Cuts every piece at what `find` finds.
template <typename Find>
void cut(CutText& cut_text, Behaviour behaviour, const Find& find) {
  std::vector<CutText::Piece> pieces;
  for (const auto& piece : cut_text.pieces) {
    const std::string_view text =
        std::string_view(cut_text.text).substr(piece.begin, piece.end - piece.begin);
    for (const Stretch& part : arrange(find(text), behaviour)) {
      if (part.begin == part.end) continue;
      pieces.push_back({piece.begin + part.begin, piece.begin + part.end, piece.at_start && part.begin == 0});
    }
  }
  cut_text.pieces = std::move(pieces);
}

/// Writes the text anew: `write(piece, its text, out)` appends what stands for a piece.
template <typename Write>
void rewrite(CutText& cut_text, const Write& write) {
  std::string out;
  out.reserve(cut_text.text.size() + cut_text.text.size() / 4);
  for (auto& piece : cut_text.pieces) {
    const std::size_t begin = out.size();
    write(piece, std::string_view(cut_text.text).substr(piece.begin, piece.end - piece.begin), out);
    piece.begin = begin;
    piece.end = out.size();
  }
  cut_text.text = std::move(out);
}

std::vector<Stretch> find_digits(std::string_view text) {
  std::vector<Stretch> found;
  std::size_t done = 0;
  for (std::size_t at = 0; at < text.size();) {
    const std::size_t begin = at;
    if (!is_numeric(next_code_point(text, at))) continue;
    if (done < begin) found.push_back({done, begin, false});
    found.push_back({begin, at, true});
    done = at;
  }
  if (done < text.size()) found.push_back({done, text.size(), false});
  return found;
}

bool stands_for_itself(unsigned byte) {
  return (byte >= 0x21 && byte <= 0x7E) || (byte >= 0xA1 && byte <= 0xAC) || byte >= 0xAE;
}

struct ByteAlphabet {
  std::array<char32_t, 256> characters{};
  std::array<std::string, 256> texts;  // the same in UTF-8
  std::array<int, 0x144> bytes{};      // the last of them is U+0143
  ByteAlphabet() {
    bytes.fill(-1);
    char32_t next = 0x100;
    for (unsigned byte = 0; byte < 256; ++byte) {
      characters[byte] = stands_for_itself(byte) ? byte : next++;
      append_utf8(texts[byte], characters[byte]);
      bytes[characters[byte]] = static_cast<int>(byte);
    }
  }
};

const ByteAlphabet& byte_alphabet() {
  static const ByteAlphabet alphabet;
  return alphabet;
}

void write_byte_level(const CutText::Piece&, std::string_view text, std::string& out) {
  const auto& texts = byte_alphabet().texts;
  for (const char c : text) out += texts[static_cast<unsigned char>(c)];
}

/// SentencePiece's way: spaces become a visible character, which also may go in front.
struct Metaspace {
  std::string replacement;
  bool prepend, prepend_later;  // at the start of the input; in front of every other piece
  void operator()(const CutText::Piece& piece, std::string_view text, std::string& out) const {
    const bool wanted = piece.at_start ? prepend : prepend_later;
    if (wanted && !text.starts_with(' ') && !text.starts_with(replacement)) out += replacement;
    for (const char c : text) {
      if (c == ' ')
        out += replacement;
      else
        out += c;
    }
  }
};

Metaspace read_metaspace(const JsonObject& object) {
  const std::string replacement = read_character(object, "replacement");
  const bool no_prefix = object.has("add_prefix_space") && !object.boolean_or("add_prefix_space", true);
  const std::string scheme = object.string_or("prepend_scheme", no_prefix ? "never" : "always");
  if (scheme != "always" && scheme != "first" && scheme != "never")
    fail("{} is '{}', expected always, first or never", object.field("prepend_scheme"), scheme);
  return {replacement, scheme != "never", scheme == "always"};
}

}  // namespace

char32_t byte_to_character(unsigned char byte) { return byte_alphabet().characters[byte]; }

int character_to_byte(char32_t character) {
  const auto& bytes = byte_alphabet().bytes;
  return character < bytes.size() ? bytes[character] : -1;
}

CutText PreTokenizer::operator()(std::string text, bool at_start) const {
  CutText cut_text{std::move(text), {}};
  if (!cut_text.text.empty()) cut_text.pieces.push_back({0, cut_text.text.size(), at_start});
  for (const auto& step : steps_) step(cut_text);
  return cut_text;
}

void PreTokenizer::add(const JsonObject& object, int depth) {
  const std::string type = object.string("type");
  if (type == "Sequence") {
    if (depth == deepest_sequence) fail("{} is nested too deeply", object.field("pretokenizers"));
    for (const JsonObject& part : object.objects("pretokenizers")) add(part, depth + 1);
  } else if (type == "ByteLevel") {
    if (object.boolean_or("add_prefix_space", true)) {
      steps_.emplace_back([](CutText& cut_text) {
        rewrite(cut_text, [](const CutText::Piece&, std::string_view text, std::string& out) {
          if (!text.starts_with(' ')) out += ' ';
          out += text;
        });
      });
    }
    if (object.boolean_or("use_regex", true)) {
      steps_.emplace_back([regex = Regex(gpt2_pattern, object.field("type"))](CutText& cut_text) {
        cut(cut_text, Behaviour::isolated, [&](std::string_view text) { return regex.find_all(text); });
      });
    }
    steps_.emplace_back([](CutText& cut_text) { rewrite(cut_text, write_byte_level); });
  } else if (type == "Split") {
    steps_.emplace_back([pattern = TextPattern(object), behaviour = read_behaviour(object),
                         invert = object.boolean_or("invert", false)](CutText& cut_text) {
      cut(cut_text, behaviour, [&](std::string_view text) {
        std::vector<Stretch> parts = pattern.find_all(text);
        if (invert)
          for (Stretch& part : parts) part.match = !part.match;
        return parts;
      });
    });
  } else if (type == "Digits") {
    const bool individual = object.boolean_or("individual_digits", false);
    steps_.emplace_back([individual](CutText& cut_text) {
      cut(cut_text, individual ? Behaviour::isolated : Behaviour::contiguous, find_digits);
    });
  } else if (type == "Metaspace") {
    const Metaspace metaspace = read_metaspace(object);
    steps_.emplace_back([metaspace](CutText& cut_text) { rewrite(cut_text, metaspace); });
    if (object.boolean_or("split", true)) {
      steps_.emplace_back([space = TextPattern(metaspace.replacement)](CutText& cut_text) {
        cut(cut_text, Behaviour::merged_with_next,
            [&](std::string_view text) { return space.find_all(text); });
      });
    }
  } else {
    fail("{} is '{}', which is not supported; supported: ByteLevel, Split, Digits, Metaspace, Sequence",
         object.field("type"), type);
  }
}

}  // namespace fathom
