#include "corpus/conversation.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "base/error.h"

namespace fathom {
namespace {

Tokenizer tokenizer() { return load_tokenizer(FATHOM_TEST_DATA "/models/llama-text"); }

TEST(Conversation, TheAssistantsTokensAreThoseOfTransformers) {
  const Tokenizer text = tokenizer();
  const ChatTemplate chat_template(text.chat_template());
  for (const Json& expected : read_json(FATHOM_TEST_DATA "/conversations.json")) {
    std::vector<Token> ids;
    const auto& learned = expected["learned"];
    for (std::size_t i = 0; i < learned.size(); ++i) {
      const auto id = expected["ids"][i].get<Token>();
      ids.push_back(learned[i] == 1 ? id : ~id);
    }
    EXPECT_EQ(encode_conversation(text, chat_template, expected["messages"], "here"), ids)
        << expected["messages"];
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
  EXPECT_THAT(message("{{ messages | length }}{% for m in messages %}{{ m.content }}{% endfor %}", chat),
              AllOf(HasSubstr("line 3"), HasSubstr("before message 2")));
  EXPECT_THAT(message("{% for m in messages %}{{ m.content }}{% endfor %}", chat),
              AllOf(HasSubstr("line 3"), HasSubstr("no end token follows")));
}

}  // namespace
}  // namespace fathom
