#include "corpus/conversation.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "base/error.h"

namespace fathom {
namespace {

Tokenizer tokenizer() { return load_tokenizer(FATHOM_TEST_DATA "/models/llama-text"); }

std::string without_tags(std::string source) {
  for (const std::string tag : {"{% generation %}", "{% endgeneration %}"}) {
    for (auto at = source.find(tag); at != std::string::npos; at = source.find(tag))
      source.erase(at, tag.size());
  }
  return source;
}

/// What is learned in brackets, for messages.
std::string shown(const Tokenizer& text, std::span<const Token> ids) {
  std::string result;
  for (const Token id : ids) {
    const Token token = id < 0 ? ~id : id;
    const std::string piece = text.decode(std::span(&token, 1), false);
    result += id < 0 ? piece : "[" + piece + "]";
  }
  return result;
}

TEST(Conversation, TheAssistantsTokensAreThoseOfTransformers) {
  for (const Json& kind : read_json(FATHOM_TEST_DATA "/conversations.json")) {
    const Tokenizer text = load_tokenizer(FATHOM_TEST_DATA "/" + kind["tokenizer"].get<std::string>());
    const auto source = kind["template"].get<std::string>();
    const ChatTemplate tagged(source), plain(without_tags(source));
    for (const Json& chat : kind["chats"]) {
      std::vector<Token> ids;
      const auto learned = chat["learned"].get<std::string>();
      for (std::size_t i = 0; i < learned.size(); ++i) {
        const auto id = chat["ids"][i].get<Token>();
        ids.push_back(learned[i] == '1' ? id : ~id);
      }
      for (const ChatTemplate* chat_template : {&tagged, &plain}) {
        const auto found = encode_conversation(text, *chat_template, chat["messages"], "here");
        EXPECT_EQ(found, ids) << kind["kind"] << (chat_template == &plain ? "" : ", with tags")
                              << "\nfound    " << shown(text, found) << "\nexpected " << shown(text, ids);
      }
    }
  }
}

std::string message(const std::string& source, const Json& messages) {
  try {
    encode_conversation(tokenizer(), ChatTemplate(source), messages, "chat.jsonl: line 3");
  } catch (const Error& error) {
    return error.what();
  }
  return "no error";
}

TEST(Conversation, WhatCannotBeLearnedIsToldWithItsPlace) {
  using testing::AllOf;
  using testing::HasSubstr;
  const Json chat = {{{"role", "user"}, {"content", "Hi"}},
                     {{"role", "assistant"}, {"content", "Hello"}},
                     {{"role", "user"}, {"content", "Bye"}}};
  EXPECT_THAT(message("{{ raise_exception('no') }}", chat), AllOf(HasSubstr("line 3"), HasSubstr("no")));
  EXPECT_THAT(message("{% for m in messages if m.role == 'user' %}{{ m.content }}{% endfor %}", chat),
              AllOf(HasSubstr("line 3"), HasSubstr("the assistant says nothing")));
  EXPECT_THAT(message("{% for m in messages %}{% if m.content not in ['Hi', 'Hello', 'Bye'] %}"
                      "{{ raise_exception('odd') }}{% endif %}{{ m.content }}{% endfor %}",
                      chat),
              AllOf(HasSubstr("line 3"), HasSubstr("message 1"), HasSubstr("odd"), HasSubstr("generation")));
}

}  // namespace
}  // namespace fathom
