#include "model/normalizer.h"

#include "base/error.h"
#include "model/unicode.h"

namespace fathom {
namespace {

std::string strip(std::string text, bool left, bool right) {
  std::size_t begin = 0, end = 0;
  bool inside = false;
  for (std::size_t at = 0; at < text.size();) {
    const std::size_t start = at;
    if (is_white_space(next_code_point(text, at))) continue;
    if (!inside) begin = start;
    inside = true;
    end = at;
  }
  if (!inside) begin = text.size();
  if (!left) begin = 0;
  if (!right) end = text.size();
  return begin < end ? text.substr(begin, end - begin) : std::string();
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

std::string Normalizer::operator()(std::string text) const {
  for (const auto& step : steps_) text = step(std::move(text));
  return text;
}

void Normalizer::add(const JsonObject& object, int depth) {
  const std::string type = object.string("type");
  const auto form = [&](NormalForm which) {
    steps_.emplace_back([which](std::string text) { return normalise(text, which); });
  };
  if (type == "Sequence") {
    if (depth == kDeepestSequence) fail("{} is nested too deeply", object.field("normalizers"));
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
    steps_.emplace_back([](std::string text) { return lower_case(text); });
  } else if (type == "Strip") {
    const bool left = object.boolean_or("strip_left", true), right = object.boolean_or("strip_right", true);
    steps_.emplace_back([=](std::string text) { return strip(std::move(text), left, right); });
  } else if (type == "Prepend") {
    steps_.emplace_back(
        [what = object.string("prepend")](std::string text) { return text.empty() ? text : what + text; });
  } else if (type == "Replace") {
    steps_.emplace_back([pattern = TextPattern(object), content = object.string("content")](
                            std::string text) { return pattern.replace_all(text, content); });
  } else {
    fail(
        "{} is '{}', which is not supported; supported: NFC, NFD, NFKC, NFKD, Lowercase, Strip, Prepend, "
        "Replace, Sequence",
        object.field("type"), type);
  }
}

}  // namespace fathom
