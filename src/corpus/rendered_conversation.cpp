#include "corpus/rendered_conversation.h"

#include <algorithm>
#include <array>
#include <string_view>
#include <utility>

#include "base/error.h"

namespace fathom {
namespace {

/// The fields that a message's words stand in.
constexpr std::array word_fields = {"content", "reasoning_content", "reasoning", "thinking", "tool_calls"};

/// Puts `mark` in the place of every text, but for what says of which kind something is.
void replace_texts(Json& value, const std::string& mark) {
  if (value.is_string()) value = mark;
  if (!value.is_structured()) return;
  for (const auto& [key, inner] : value.items()) {
    if (key != "type" && key != "id") replace_texts(inner, mark);
  }
}

/// A character that the text does not have, and no template trims or splits at.
std::string absent_mark(const std::string& text) {
  char mark = 1;
  while (mark < 8 && text.find(mark) != std::string::npos) ++mark;
  return {mark};
}

/// In whole characters.
std::size_t common_prefix(std::string_view a, std::string_view b) {
  auto size = static_cast<std::size_t>(std::ranges::mismatch(a, b).in1 - a.begin());
  while (size > 0 && size < a.size() && (static_cast<unsigned char>(a[size]) & 0xC0U) == 0x80U) --size;
  return size;
}

std::size_t common_suffix(std::string_view a, std::string_view b) {
  return static_cast<std::size_t>(std::mismatch(a.rbegin(), a.rend(), b.rbegin(), b.rend()).first -
                                  a.rbegin());
}

}  // namespace

RenderedConversation::RenderedConversation(const ChatTemplate& chat_template, const Tokenizer& tokenizer,
                                           const Json& messages, std::string where)
    : template_(chat_template),
      tokenizer_(tokenizer),
      messages_(messages),
      where_(std::move(where)),
      whole_(render(messages, false)) {
  if (!whole_.generated.empty()) return;
  for (std::size_t i = 0; i < messages.size(); ++i) written_.push_back(written_in(text(), messages, i));
}

MarkedText RenderedConversation::render(const Json& messages, bool prompt) const {
  try {
    return template_.render_marked(chat_context(tokenizer_, messages, prompt));
  } catch (const Error& error) {
    fail("{}: the chat template cannot render this conversation: {}", where_, error.what());
  }
}

std::optional<TextRange> RenderedConversation::written_in(const std::string& text, Json messages,
                                                          std::size_t message) const {
  for (const char* field : word_fields) {
    if (messages[message].contains(field)) replace_texts(messages[message][field], absent_mark(text));
  }
  std::string other;
  try {
    other = template_.render(chat_context(tokenizer_, std::move(messages), false));
  } catch (const Error& error) {
    fail(
        "{}: the chat template fails when message {} has other words, by which what it writes is found: {}; "
        "mark in the template what the assistant says, with {{% generation %}}",
        where_, message + 1, error.what());
  }
  if (other == text) return {};
  const std::size_t begin = common_prefix(text, other);
  return TextRange{begin, std::max(begin, text.size() - common_suffix(text, other))};
}

Json RenderedConversation::until(std::size_t message) const {
  return Json(messages_.begin(), messages_.begin() + static_cast<std::ptrdiff_t>(message));
}

/// The text before the message, with the prompt to say it or without. Some templates cannot begin with what
/// the assistant says, and so give none.
std::optional<std::string> RenderedConversation::prompt(std::size_t message, bool given) const {
  try {
    return render(until(message), given).text;
  } catch (const Error&) {
    return {};
  }
}

std::size_t RenderedConversation::begin_of_turn(std::size_t message) const {
  const auto [first_word, last_word] = *written_[message];
  const auto asked = prompt(message, true), before = prompt(message, false);
  if (!asked || !before) return first_word;
  if (*asked == *before) return first_word - said_before_words(message, *asked);
  if (text().starts_with(*asked)) return asked->size();
  const std::size_t asking = common_prefix(*asked, *before), common = common_prefix(*asked, text());
  if (common >= asking) return std::min(common, first_word);

  // Earlier messages are rendered otherwise in the whole: the prompt is looked for between them and this one.
  std::size_t last = 0;
  for (const auto& other : written_) {
    if (other && other->end <= first_word) last = std::max(last, other->end);
  }
  const std::string_view opening = std::string_view(*asked).substr(asking);
  const std::string_view place = std::string_view(text()).substr(last, first_word - last + opening.size());
  for (std::size_t size = opening.size(); size > opening.size() / 2; --size) {
    const std::size_t found = place.rfind(opening.substr(0, size), first_word - last);
    if (found == std::string_view::npos) continue;
    const std::size_t end = last + found + size;
    return size == opening.size() ? end : std::min(end, first_word);
  }
  return first_word;
}

/// Where a template gives no prompt, the model says the white space before its words, too, and what opens a
/// call of tools.
std::size_t RenderedConversation::said_before_words(std::size_t message, const std::string& asked) const {
  const std::string alone = render(until(message + 1), false).text;
  const auto words = written_in(alone, until(message + 1), message);
  if (!words || words->begin < asked.size() || !alone.starts_with(asked)) return 0;
  const std::string_view lead = std::string_view(alone).substr(asked.size(), words->begin - asked.size());
  const bool is_blank = lead.find_first_not_of(" \t\r\n") == std::string_view::npos;
  const bool is_here = std::string_view(text()).substr(0, written_[message]->begin).ends_with(lead);
  return is_here && (is_blank || messages_[message].contains("tool_calls")) ? lead.size() : 0;
}

std::size_t RenderedConversation::next_words(std::size_t message) const {
  std::size_t result = text().size();
  for (std::size_t i = 0; i < written_.size(); ++i) {
    if (i != message && written_[i] && written_[i]->begin >= written_[message]->end)
      result = std::min(result, written_[i]->begin);
  }
  return result;
}

RenderedConversation::Ended RenderedConversation::ended_with(std::size_t message) const {
  const Json messages = until(message + 1);
  const std::string alone = render(messages, false).text;
  const auto words = written_in(alone, messages, message);
  return {alone, words ? words->end : alone.size()};
}

}  // namespace fathom
