// The way from tokenizer.json to GGUF's keys, against the files that the oracle wrote for the same
// tokenizers.
#include "text/tokenizer_to_gguf.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "base/error.h"
#include "base/file.h"
#include "base/json.h"
#include "formats/gguf.h"
#include "formats/gguf_write.h"
#include "message.h"
#include "scratch.h"
#include "text/tokenizer.h"

namespace fathom {
namespace {

namespace fs = std::filesystem;
using testing::HasSubstr;

const fs::path data_folder = fs::path(FATHOM_TEST_DATA) / "tokenizers";

/// The message that a tokenizer gives after `edit` changed its tokenizer.json.
std::string refusal(const std::string& name, const std::function<void(Json&)>& edit) {
  const test::Scratch scratch;
  Json json = read_json(data_folder / name / "tokenizer.json");
  edit(json);
  write_file(scratch / "tokenizer.json", json.dump());
  return message([&] { tokenizer_to_gguf(scratch.path(), 1000); });
}

class ToGguf : public testing::TestWithParam<std::string> {
 protected:
  fs::path folder = data_folder / GetParam();
  std::int64_t size = load_tokenizer(folder).size();
};

TEST_P(ToGguf, IdsAreHuggingFacesWhenTheFileIsReadAgain) {
  const test::Scratch scratch;
  write_gguf(scratch / "t.gguf", tokenizer_to_gguf(folder, size + 3), {});
  const Tokenizer tokenizer = load_tokenizer(scratch / "t.gguf");
  for (const Json& entry : read_json(folder / "oracle.json")) {
    const auto ids = entry.at("special").get<std::vector<Token>>();
    if (entry.contains("text")) {
      const auto text = entry.at("text").get<std::string>();
      SCOPED_TRACE(text);
      EXPECT_EQ(tokenizer.encode(text), ids);
      EXPECT_EQ(tokenizer.encode(text, false), entry.at("plain").get<std::vector<Token>>());
    }
    EXPECT_EQ(tokenizer.decode(ids), entry.at("decoded").get<std::string>());
  }
  const Tokenizer original = load_tokenizer(folder);
  EXPECT_EQ(tokenizer.bos(), original.bos());
  EXPECT_EQ(tokenizer.eos(), original.eos());
  EXPECT_EQ(tokenizer.end_tokens(), original.end_tokens());
  EXPECT_EQ(tokenizer.chat_template(), original.chat_template());
}

// As far as both say it: the oracle's SentencePiece scores are a model's own, and it spells out that there is
// no token for padding.
TEST_P(ToGguf, KeysAreThoseThatTheOracleWrote) {
  const GgufFile oracle(folder / "tokenizer.gguf");
  const GgufMetadata keys = tokenizer_to_gguf(folder, std::ssize(oracle.strings("tokenizer.ggml.tokens")));
  for (const auto& [key, value] : oracle.metadata()) {
    if (!key.starts_with("tokenizer.") || key == "tokenizer.ggml.scores") continue;
    if (value == GgufValue(std::int64_t{0xFFFFFFFF})) continue;
    const auto found = keys.find(key);
    ASSERT_NE(found, keys.end()) << key;
    EXPECT_EQ(found->second, value) << key;
  }
}

INSTANTIATE_TEST_SUITE_P(Files, ToGguf,
                         testing::Values("gpt2", "smollm", "llama3", "qwen2", "llama2", "gemma"));

TEST(TokenizerToGguf, AGgufFilesOwnKeysAreCopied) {
  const GgufFile oracle(data_folder / "gemma" / "tokenizer.gguf");
  const GgufMetadata keys = tokenizer_to_gguf(data_folder / "gemma" / "tokenizer.gguf", 1);
  std::size_t own = 0;
  for (const auto& [key, value] : oracle.metadata()) own += key.starts_with("tokenizer.") ? 1 : 0;
  EXPECT_EQ(keys.size(), own);
  for (const auto& [key, value] : keys) EXPECT_EQ(value, oracle.metadata().at(key)) << key;
}

TEST(TokenizerToGguf, AModelWithoutOneSaysSo) {
  const test::Scratch scratch;
  write_gguf(scratch / "t.gguf", tokenizer_to_gguf(scratch.path(), 5), {});
  EXPECT_EQ(GgufFile(scratch / "t.gguf").string("tokenizer.ggml.model"), "none");
  EXPECT_FALSE(has_tokenizer(scratch / "t.gguf"));
}

TEST(TokenizerToGguf, WhatAFileCannotSayIsRefusedByName) {
  EXPECT_THAT(refusal("gpt2",
                      [](Json& json) {
                        json["normalizer"] = {{"type", "NFKC"}};
                      }),
              HasSubstr("fields 'normalizer' and 'pre_tokenizer' cut text in a way"));
  EXPECT_THAT(refusal("gemma",
                      [](Json& json) {
                        json["normalizer"] = {{"type", "NFC"}};
                      }),
              HasSubstr("do more than SentencePiece"));
  // A piece that both of its halves are in the vocabulary for, and that no merge makes.
  const auto no_first_merge = [](Json& json) { json["model"]["merges"].erase(0); };
  EXPECT_THAT(refusal("llama2", no_first_merge), HasSubstr("field 'model.merges' is in an order"));
  const auto two_before = [](Json& json) {
    Json& single = json["post_processor"]["single"];
    single.insert(single.begin(), single.front());
  };
  EXPECT_THAT(refusal("gemma", two_before), HasSubstr("field 'post_processor' puts other tokens"));
  EXPECT_THAT(refusal("gemma", [](Json&) {}), "no error");
  try {
    tokenizer_to_gguf(data_folder / "gemma", 100);
    FAIL();
  } catch (const Error& e) {
    EXPECT_THAT(e.what(), HasSubstr("but the model has 100 embeddings"));
  }
}

}  // namespace
}  // namespace fathom
