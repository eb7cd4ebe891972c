#include "model/shared_vocabulary.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <functional>

#include "base/file.h"
#include "scratch.h"

namespace fathom {
namespace {

namespace fs = std::filesystem;

const fs::path data = FATHOM_TEST_DATA;

/// The tokenizer of `name` after `edit` changed its tokenizer.json.
Tokenizer edited(const std::string& name, const std::function<void(Json&)>& edit) {
  const test::Scratch scratch;
  Json json = read_json(data / "tokenizers" / name / "tokenizer.json");
  edit(json);
  write_file(scratch / "tokenizer.json", json.dump());
  return load_tokenizer(scratch.path());
}

TEST(SharedVocabulary, AModelsTwoFormsHaveTheSame) {  // its tokenizer.json, and its GGUF file by gguf-py
  for (const char* name : {"gemma", "gpt2", "llama2", "llama3", "qwen2", "smollm"}) {
    const Tokenizer json = load_tokenizer(data / "tokenizers" / name);
    const Tokenizer gguf = load_tokenizer(data / "tokenizers" / name / "tokenizer.gguf");
    for (const auto& found : {first_difference(json, gguf), first_difference(gguf, json)})
      EXPECT_FALSE(found) << name << ": " << found->what << ": " << found->own << ", " << found->other;
  }
}

TEST(SharedVocabulary,
     SentencePiecesSpaceMayBePrependedInTwoWays) {  // transformers writes both, by its version
  const Tokenizer old_way = load_tokenizer(data / "tokenizers" / "llama2");
  const Tokenizer new_way = edited("llama2", [](Json& json) {
    json["normalizer"] = nullptr;
    json["pre_tokenizer"] = {
        {"type", "Metaspace"}, {"replacement", "\u2581"}, {"prepend_scheme", "first"}, {"split", false}};
  });
  EXPECT_NE(old_way.encode(" "), new_way.encode(" "));
  EXPECT_FALSE(first_difference(old_way, new_way));
}

TEST(SharedVocabulary, TheFirstDifferenceIsNamed) {
  const Tokenizer own = load_tokenizer(data / "tokenizers" / "gpt2");
  const auto id_of = [&](const char* piece) { return "token " + std::to_string(*own.id(piece)); };
  const auto exchanged = first_difference(own, edited("gpt2", [](Json& json) {
                                            Json& vocab = json["model"]["vocab"];
                                            std::swap(vocab["a"], vocab["b"]);
                                          }));
  ASSERT_TRUE(exchanged);
  EXPECT_EQ(exchanged->what, id_of("a"));
  EXPECT_EQ(exchanged->own, "\"a\"");
  EXPECT_EQ(exchanged->other, "\"b\"");
  // The same pieces, put together in another order.
  const auto merged = first_difference(own, edited("gpt2", [](Json& json) {
                                         Json& merges = json["model"]["merges"];
                                         std::reverse(merges.begin(), merges.end());
                                       }));
  ASSERT_TRUE(merged);
  EXPECT_THAT(merged->what, testing::StartsWith("the text \""));
  EXPECT_NE(merged->own, merged->other);
  EXPECT_TRUE(first_difference(own, load_tokenizer(data / "tokenizers" / "smollm")));
}

TEST(SharedVocabulary, WhatTheOtherHasBesidesDoesNotCount) {
  const Tokenizer own = load_tokenizer(data / "tokenizers" / "gpt2");
  const auto extended = [&](const std::string& name) {
    return edited("gpt2", [&](Json& json) { json["model"]["vocab"][name] = own.size(); });
  };
  EXPECT_FALSE(first_difference(own, extended("<more>")));
  const auto missing = first_difference(extended("<more>"), own);
  ASSERT_TRUE(missing);
  EXPECT_EQ(missing->own, "\"<more>\"");
  EXPECT_EQ(missing->other, "nothing");
  EXPECT_FALSE(first_difference(extended("[PAD" + std::to_string(own.size()) + "]"), own));
}

TEST(SharedVocabulary, AVocabularyIsCutToItsFirstTokens) {
  const Checkpoint model = load_checkpoint(data / "models" / "llama");  // with a head of its own
  const std::int64_t tokens = model.config.vocab_size - 3;
  const Checkpoint cut = with_vocabulary(model, tokens);
  validate(cut);
  for (const char* name : {"model.embed_tokens.weight", "lm_head.weight"}) {
    std::vector<float> expected = decode(model.tensor(name));
    expected.resize(static_cast<std::size_t>(tokens * model.config.hidden_size));
    EXPECT_EQ(decode(cut.tensor(name)), expected) << name;
  }
}

}  // namespace
}  // namespace fathom
