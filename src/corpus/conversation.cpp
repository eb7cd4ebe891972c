#include "corpus/conversation.h"

#include <algorithm>
#include <iterator>

#include "base/error.h"

namespace fathom {

std::vector<Token> encode_conversation(const Tokenizer& tokenizer, const ChatTemplate& chat_template,
                                       const Json& messages, const std::string& where) {
  const auto render = [&](const Json& part, bool prompt) {
    try {
      return chat_template.render(chat_context(tokenizer, part, prompt));
    } catch (const Error& error) {
      fail("{}: the chat template cannot render this conversation: {}", where, error.what());
    }
  };
  const std::string whole = render(messages, false);
  const std::vector<Token> ids = tokenizer.encode(whole, false);
  std::vector<Token> result;
  std::ranges::transform(ids, std::back_inserter(result), [](Token id) { return ~id; });
  const auto& ends = tokenizer.end_tokens();
  bool speaks = false;
  Json before = Json::array();
  for (const Json& message : messages) {
    if (message["role"] == "assistant") {
      const std::string prompt = render(before, true);
      if (!whole.starts_with(prompt)) {
        fail(
            "{}: the chat template renders the turns before message {} otherwise when more follow, so that "
            "the assistant's turns cannot be told apart; give each turn as a conversation of its own",
            where, before.size() + 1);
      }
      const std::vector<Token> prompt_ids = tokenizer.encode(prompt, false);
      const auto [start, _] = std::ranges::mismatch(ids, prompt_ids);
      const auto end = std::ranges::find_first_of(start, ids.end(), ends.begin(), ends.end());
      if (end == ids.end() && &message != &messages.back()) {
        fail(
            "{}: no end token follows the assistant's turn in message {}, expected one that the tokenizer "
            "names as an end of text or turn",
            where, before.size() + 1);
      }
      const auto first = start - ids.begin(), last = std::min(end - ids.begin() + 1, std::ssize(ids));
      for (auto i = first; i < last; ++i)
        result[static_cast<std::size_t>(i)] = ids[static_cast<std::size_t>(i)];
      speaks = true;
    }
    before.push_back(message);
  }
  if (!speaks)
    fail("{}: the assistant says nothing in this conversation, so there is nothing to learn", where);
  return result;
}

}  // namespace fathom
