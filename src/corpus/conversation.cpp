#include "corpus/conversation.h"

#include <algorithm>
#include <span>
#include <string_view>

#include "base/error.h"
#include "corpus/rendered_conversation.h"

namespace fathom {
namespace {

/// A text and its tokens, some of which are learned.
class LearnedText {
 public:
  LearnedText(const Tokenizer& tokenizer, const std::string& text)
      : tokenizer_(tokenizer), text_(text), ids_(tokenizer.encode(text, false)), learned_(ids_.size()) {}

  /// Token number `first` up to `end`.
  void learn(std::size_t first, std::size_t end) {
    for (std::size_t i = first; i < end; ++i) learned_[i] = true;
  }

  /// How many tokens lie before this place in the text, and how many begin before it.
  struct Before {
    std::size_t whole, begun;
  };
  Before before(std::size_t place) const {
    const std::vector<Token> part = tokenizer_.encode(std::string_view(text_).substr(0, place), false);
    const auto common = static_cast<std::size_t>(std::ranges::mismatch(part, ids_).in1 - part.begin());
    // Near the place the part's tokens may be others than the whole's: there their texts are compared.
    const std::size_t rest = tokenizer_.decode(std::span(part).subspan(common), false).size();
    StreamDecoder decoder(tokenizer_, false);
    std::size_t whole = common, covered = 0;
    for (std::size_t i = common, size = 0; i < ids_.size(); ++i) {
      size += decoder.push(ids_[i]).size();
      if (size > rest) break;
      if (size > covered) whole = i + 1;
      covered = size;
    }
    return {whole, std::min(covered < rest ? whole + 1 : whole, ids_.size())};
  }

  std::span<const Token> ids() const { return ids_; }

  /// ~id where a token is only read.
  std::vector<Token> result() const {
    std::vector<Token> result = ids_;
    for (std::size_t i = 0; i < result.size(); ++i) {
      if (!learned_[i]) result[i] = ~result[i];
    }
    return result;
  }

 private:
  const Tokenizer& tokenizer_;
  const std::string& text_;
  std::vector<Token> ids_;
  std::vector<bool> learned_;
};

/// The end of a turn whose words end before token number `words_end`.
std::size_t end_of_turn(const Tokenizer& tokenizer, const RenderedConversation& conversation,
                        const LearnedText& text, std::size_t message, std::size_t words_end) {
  const auto& ends = tokenizer.end_tokens();
  const auto ids = text.ids();
  const std::size_t next = text.before(conversation.next_words(message)).whole;
  for (std::size_t i = words_end; i < next; ++i) {
    if (std::ranges::find(ends, ids[i]) != ends.end()) return i + 1;
  }
  // What follows is the turn's own as far as it would also follow if the turn were the last.
  const auto [ended, ended_words] = conversation.ended_with(message);
  const LearnedText alone(tokenizer, ended);
  const auto ending = alone.ids().subspan(alone.before(ended_words).begun);
  const auto follows = ids.subspan(words_end);
  auto end =
      words_end + static_cast<std::size_t>(std::ranges::mismatch(follows, ending).in1 - follows.begin());
  const auto is_blank = [&](Token id) {
    return tokenizer.decode(std::span(&id, 1), false).find_first_not_of(" \t\r\n") == std::string::npos;
  };
  while (end > words_end && is_blank(ids[end - 1])) --end;
  return end;
}

}  // namespace

std::vector<Token> encode_conversation(const Tokenizer& tokenizer, const ChatTemplate& chat_template,
                                       const Json& messages, const std::string& where) {
  const RenderedConversation conversation(chat_template, tokenizer, messages, where);
  LearnedText text(tokenizer, conversation.text());
  for (const TextRange& range : conversation.generated()) {
    text.learn(text.before(range.begin).whole, text.before(range.end).begun);
  }
  for (std::size_t i = 0; conversation.generated().empty() && i < messages.size(); ++i) {
    if (messages[i]["role"] != "assistant" || !conversation.written_by(i)) continue;
    const std::size_t begin = conversation.begin_of_turn(i);
    const std::size_t first = text.before(begin).whole;
    const std::size_t words_end = text.before(std::max(begin, conversation.written_by(i)->end)).begun;
    text.learn(first, end_of_turn(tokenizer, conversation, text, i, words_end));
  }
  std::vector<Token> result = text.result();
  if (std::ranges::none_of(result, [](Token token) { return token >= 0; }))
    fail("{}: the assistant says nothing in this conversation, so there is nothing to learn", where);
  return result;
}

}  // namespace fathom
