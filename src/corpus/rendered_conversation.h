// A conversation as its chat template renders it, and which of the text each message wrote.
//
// Templates say neither (but for those with {% generation %} blocks), so it is asked of them: the
// conversation is rendered again with other words in one message, and what differs is what that message
// wrote. That holds whatever a template does to a message: trims it, cuts its thoughts away, writes it
// otherwise where it comes last, moves it to another place.
#pragma once

#include <cstddef>
#include <optional>
#include <string>
#include <vector>

#include "base/json.h"
#include "text/chat_template.h"
#include "text/tokenizer.h"

namespace fathom {

class RenderedConversation {
 public:
  /// All but `where`, which messages name, must outlive it. Throws Error, as all others here, when the
  /// template fails on the conversation or on that with other words.
  RenderedConversation(const ChatTemplate& chat_template, const Tokenizer& tokenizer, const Json& messages,
                       std::string where);

  const std::string& text() const { return whole_.text; }
  /// What stands in the template's {% generation %} blocks; empty where it has none.
  const std::vector<TextRange>& generated() const { return whole_.generated; }
  /// What of the text a message wrote, from its first to its last word; nothing if it is not in it.
  std::optional<TextRange> written_by(std::size_t message) const { return written_[message]; }

  /// Where what the model says in this message begins: behind the prompt that it is given when it is used, as
  /// far as that stands in the text. (A prompt may open a block of thoughts that no stored turn has.) Where
  /// the template gives no prompt, at the message's words. The message must have written something.
  std::size_t begin_of_turn(std::size_t message) const;
  /// Where the words of the next message begin, or the text ends.
  std::size_t next_words(std::size_t message) const;
  /// The conversation as if it ended with this message, and where that one's words end in it.
  struct Ended {
    std::string text;
    std::size_t words_end;
  };
  Ended ended_with(std::size_t message) const;

 private:
  std::size_t said_before_words(std::size_t message, const std::string& asked) const;
  Json until(std::size_t message) const;
  MarkedText render(const Json& messages, bool prompt) const;
  std::optional<std::string> prompt(std::size_t message, bool given) const;
  std::optional<TextRange> written_in(const std::string& text, Json messages, std::size_t message) const;

  const ChatTemplate& template_;
  const Tokenizer& tokenizer_;
  const Json& messages_;
  std::string where_;
  MarkedText whole_;
  std::vector<std::optional<TextRange>> written_;
};

}  // namespace fathom
