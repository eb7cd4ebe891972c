#include "text/normalizer.h"

#include "base/error.h"
#include "text/unicode.h"

namespace fathom {
namespace {

std::string strip(std::string_view text, bool left, bool right, bool& at_start) {
  std::size_t begin = 0;
  while (left && begin < text.size()) {
    std::size_t next = begin;
    if (!is_white_space(next_code_point(text, next))) break;
    begin = next;
  }
  if (begin > 0) at_start = false;
  text.remove_prefix(begin);
  while (right && !text.empty()) {
    const std::size_t last = last_character(text);
    std::size_t at = last;
    if (!is_white_space(next_code_point(text, at))) break;
    text = text.substr(0, last);
  }
  return std::string(text);
}

}  // namespace

std::string read_character(const JsonObject& object, const std::string& key) {
  std::string text = object.string(key);
  if (text.empty() || character_bytes(text[0]) != text.size())
    fail("{} is '{}', expected one character", object.field(key), text);
  return text;
}

TextPattern::TextPattern(const JsonObject& object) {
  const JsonObject pattern = object.object("pattern");
  if (pattern.has("Regex")) {
    regex_.emplace(pattern.string("Regex"), pattern.field("Regex"));
  } else {
    literal_ = pattern.string("String");
    if (literal_.empty()) fail("{} is empty, expected a text to look for", pattern.field("String"));
  }
}

std::vector<Stretch> TextPattern::find_all(std::string_view text) const {
  if (regex_) return regex_->find_all(text);
  std::vector<Stretch> found;
  std::size_t done = 0;
  for (std::size_t at = text.find(literal_); at != std::string_view::npos; at = text.find(literal_, done)) {
    if (done < at) found.push_back({done, at, false});
    done = at + literal_.size();
    found.push_back({at, done, true});
  }
  if (done < text.size()) found.push_back({done, text.size(), false});
  return found;
}

std::string TextPattern::replace_all(std::string_view text, std::string_view content) const {
  std::string out;
  out.reserve(text.size());
  for (const Stretch& part : find_all(text))
    out += part.match ? content : text.substr(part.begin, part.end - part.begin);
  return out;
}

std::string Normalizer::operator()(std::string text, bool& at_start) const {
  for (const auto& step : steps_) text = step(std::move(text), at_start);
  return text;
}

void Normalizer::add(const JsonObject& object, int depth) {
  const std::string type = object.string("type");
  const auto form = [&](NormalForm which) {
    steps_.emplace_back([which](const std::string& text, bool&) { return normalise(text, which); });
  };
  if (type == "Sequence") {
    if (depth == deepest_sequence) fail("{} is nested too deeply", object.field("normalizers"));
    for (const JsonObject& part : object.objects("normalizers")) add(part, depth + 1);
  } else if (type == "NFC") {
    form(NormalForm::nfc);
  } else if (type == "NFD") {
    form(NormalForm::nfd);
  } else if (type == "NFKC") {
    form(NormalForm::nfkc);
  } else if (type == "NFKD") {
    form(NormalForm::nfkd);
  } else if (type == "Lowercase") {
    steps_.emplace_back([](const std::string& text, bool&) { return lower_case(text); });
  } else if (type == "Strip") {
    const bool left = object.boolean_or("strip_left", true), right = object.boolean_or("strip_right", true);
    steps_.emplace_back(
        [=](const std::string& text, bool& at_start) { return strip(text, left, right, at_start); });
  } else if (type == "Prepend") {
    steps_.emplace_back([what = object.string("prepend")](const std::string& text, bool&) {
      return text.empty() ? text : what + text;
    });
  } else if (type == "Replace") {
    steps_.emplace_back([pattern = TextPattern(object), content = object.string("content")](
                            const std::string& text, bool& at_start) {
      if (content.empty() && at_start) {
        const std::vector<Stretch> parts = pattern.find_all(text);
        at_start = parts.empty() || !parts.front().match;
      }
      return pattern.replace_all(text, content);
    });
  } else {
    fail(
        "{} is '{}', which is not supported; supported: NFC, NFD, NFKC, NFKD, Lowercase, Strip, Prepend, "
        "Replace, Sequence",
        object.field("type"), type);
  }
}

}  // namespace fathom
