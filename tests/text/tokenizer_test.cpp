// Against what Hugging Face `tokenizers` computed (tests/oracle/make_tokenizers.py), from tokenizer.json and
// GGUF.
#include "text/tokenizer.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "base/error.h"
#include "base/json.h"
#include "text/unicode.h"

namespace fathom {
namespace {

namespace fs = std::filesystem;
using testing::ElementsAre;

const fs::path data_folder = fs::path(FATHOM_TEST_DATA) / "tokenizers";

class Tokenizers : public testing::TestWithParam<std::string> {};

std::string streamed(const Tokenizer& tokenizer, const std::vector<Token>& ids, bool skip_special) {
  StreamDecoder decoder(tokenizer, skip_special);
  std::string text;
  for (const Token id : ids) {
    const std::string part = decoder.push(id);
    EXPECT_TRUE(is_valid_utf8(part));
    text += part;
  }
  return text + decoder.finish();
}

TEST_P(Tokenizers, EncodeAndDecodeLikeHuggingFace) {
  const fs::path model = data_folder / GetParam();
  const Tokenizer tokenizer = load_tokenizer(model);
  const fs::path oracle = (fs::is_directory(model) ? model : model.parent_path()) / "oracle.json";
  for (const Json& entry : read_json(oracle)) {
    const auto ids = entry.at("special").get<std::vector<Token>>();
    if (entry.contains("text")) {
      const auto text = entry.at("text").get<std::string>();
      SCOPED_TRACE(text);
      EXPECT_EQ(tokenizer.encode(text), ids);
      EXPECT_EQ(tokenizer.encode(text, false), entry.at("plain").get<std::vector<Token>>());
    }
    SCOPED_TRACE(testing::PrintToString(ids));
    EXPECT_EQ(tokenizer.decode(ids), entry.at("decoded").get<std::string>());
    EXPECT_EQ(tokenizer.decode(ids, false), entry.at("decoded_special").get<std::string>());
    EXPECT_EQ(streamed(tokenizer, ids, true), tokenizer.decode(ids));
    EXPECT_EQ(streamed(tokenizer, ids, false), tokenizer.decode(ids, false));
  }
}

// The oracle is the same: what Hugging Face decodes from all ids, wherever a stream takes over.
TEST_P(Tokenizers, AStreamGoesOnBehindAPromptAsOneText) {
  const fs::path model = data_folder / GetParam();
  const Tokenizer tokenizer = load_tokenizer(model);
  const fs::path oracle = (fs::is_directory(model) ? model : model.parent_path()) / "oracle.json";
  int seams = 0;
  for (const Json& entry : read_json(oracle)) {
    const auto ids = entry.at("special").get<std::vector<Token>>();
    const auto whole = entry.at("decoded").get<std::string>();
    if (whole.find("\uFFFD") != std::string::npos) continue;
    for (std::size_t seam = 0; seam <= ids.size(); ++seam) {
      const auto prompt = std::span(ids).first(seam);
      const std::string before = tokenizer.decode(prompt);
      if (before.find("\uFFFD") != std::string::npos) continue;  // no prompt ends inside a character
      StreamDecoder decoder(tokenizer, prompt);
      std::string text = before;
      for (const Token id : std::span(ids).subspan(seam)) text += decoder.push(id);
      text += decoder.finish();
      EXPECT_EQ(text, whole) << testing::PrintToString(ids) << ", " << seam;
      ++seams;
    }
  }
  EXPECT_GT(seams, 100);
}

TEST(Tokenizer, APromptHasWhatStandsBeforeATextButNotWhatStandsBehind) {
  const Tokenizer tokenizer = load_tokenizer(data_folder / "metaspace");
  std::vector<Token> ids = tokenizer.encode("The dog");
  ASSERT_EQ(ids.back(), tokenizer.id("</s>"));
  ids.pop_back();
  EXPECT_EQ(tokenizer.encode_prompt("The dog"), ids);
  EXPECT_EQ(ids.front(), tokenizer.id("<s>"));
}

INSTANTIATE_TEST_SUITE_P(FromJson, Tokenizers,
                         testing::Values("gpt2", "llama3", "qwen2", "smollm", "llama2", "gemma", "metaspace",
                                         "behaviours", "gpt2/tokenizer.json"));
INSTANTIATE_TEST_SUITE_P(FromGguf, Tokenizers,
                         testing::Values("gpt2/tokenizer.gguf", "llama3/tokenizer.gguf",
                                         "qwen2/tokenizer.gguf", "smollm/tokenizer.gguf",
                                         "llama2/tokenizer.gguf", "gemma/tokenizer.gguf"));

TEST(Tokenizer, BytesThatAreNoUtf8BecomeReplacementCharacters) {
  const Tokenizer tokenizer = load_tokenizer(data_folder / "gpt2");
  const std::string broken = "a\xFF\xE2\x82z\xF0\x9F\x98";
  EXPECT_EQ(tokenizer.encode(broken), tokenizer.encode("a\uFFFD\uFFFDz\uFFFD"));
  EXPECT_EQ(tokenizer.decode(tokenizer.encode(broken)), "a\uFFFD\uFFFDz\uFFFD");
}

TEST(Tokenizer, AStreamHoldsBackACharacterUntilItIsWhole) {
  const Tokenizer tokenizer = load_tokenizer(data_folder / "gpt2");
  const std::vector<Token> ids = tokenizer.encode("\U0001F999");
  ASSERT_EQ(ids.size(), 4U);
  StreamDecoder decoder(tokenizer);
  EXPECT_EQ(decoder.push(ids[0]), "");
  EXPECT_EQ(decoder.push(ids[1]), "");
  EXPECT_EQ(decoder.push(ids[2]), "");
  EXPECT_EQ(decoder.push(ids[3]), "\U0001F999");
  EXPECT_EQ(decoder.push(ids[0]), "");
  EXPECT_EQ(decoder.finish(), "\uFFFD");
}

TEST(Tokenizer, SpecialTokensAreKnownByNameAndNumber) {
  for (const char* name : {"smollm", "smollm/tokenizer.gguf"}) {
    const Tokenizer tokenizer = load_tokenizer(data_folder / name);
    SCOPED_TRACE(name);
    EXPECT_EQ(tokenizer.bos(), std::nullopt);  // has one, but puts none before a text
    EXPECT_EQ(tokenizer.eos(), tokenizer.id("<|im_end|>"));
    EXPECT_EQ(tokenizer.special_text("bos_token"), "<|im_start|>");
    EXPECT_EQ(tokenizer.special_text("sep_token"), "");
    EXPECT_THAT(tokenizer.end_tokens(), ElementsAre(*tokenizer.id("<|im_end|>")));
    EXPECT_THAT(tokenizer.chat_template(), testing::StartsWith("{% for m in messages %}"));
    EXPECT_TRUE(tokenizer.is_special(*tokenizer.eos()));
    EXPECT_FALSE(tokenizer.is_special(*tokenizer.id("a")));
    EXPECT_EQ(tokenizer.piece(*tokenizer.id("<|im_start|>")), "<|im_start|>");
    EXPECT_EQ(tokenizer.size(), *tokenizer.id("<|im_end|>") + 1);
    EXPECT_EQ(tokenizer.id("no such piece"), std::nullopt);
    EXPECT_EQ(tokenizer.decode(std::vector<Token>{-1, 1'000'000}), "");
  }
  const Tokenizer gemma = load_tokenizer(data_folder / "gemma");
  EXPECT_EQ(gemma.bos(), gemma.id("<bos>"));
  EXPECT_THAT(gemma.end_tokens(), ElementsAre(*gemma.id("<eos>"), *gemma.id("<end_of_turn>")));
  const Tokenizer llama = load_tokenizer(data_folder / "llama3/tokenizer.gguf");
  EXPECT_THAT(llama.end_tokens(), ElementsAre(*llama.id("<|end_of_text|>"), *llama.id("<|eot_id|>")));
}

// Without the heap and the cache of words these take hours.
TEST(Tokenizer, LongTextsWithoutAnyWordTakeNoTime) {
  for (const char* name : {"llama2", "gemma", "gpt2"}) {
    const Tokenizer tokenizer = load_tokenizer(data_folder / name);
    for (const char* unit : {"a", " ", "the", "\n", "\u00e9", "\U0001F999"}) {
      std::string text;
      while (text.size() < 300'000) text += unit;
      EXPECT_EQ(tokenizer.decode(tokenizer.encode(text)), text) << name;
    }
  }
}

TEST(Tokenizer, SavedFilesGiveTheSameTokenizer) {
  for (const char* name :
       {"qwen2", "qwen2/tokenizer.gguf", "gemma/tokenizer.gguf", "smollm/tokenizer.gguf"}) {
    SCOPED_TRACE(name);
    const fs::path directory = fs::temp_directory_path() / ("fathom_tokenizer_" + std::to_string(::getpid()));
    fs::create_directories(directory);
    const Tokenizer before = load_tokenizer(data_folder / name);
    save_tokenizer(data_folder / name, directory);
    {
      const Tokenizer after = load_tokenizer(directory);
      const std::string text = "The dog  wasn't\n\n\namused in 1969 <b>\u00e9 e\u0301<think><|im_end|>";
      EXPECT_EQ(after.encode(text), before.encode(text));
      EXPECT_EQ(after.decode(after.encode(text)), before.decode(before.encode(text)));
      EXPECT_EQ(after.eos(), before.eos());
      EXPECT_EQ(after.end_tokens(), before.end_tokens());
      EXPECT_EQ(after.chat_template(), before.chat_template());
      EXPECT_EQ(after.special_text("bos_token"), before.special_text("bos_token"));
      EXPECT_EQ(after.size(), before.size());
    }
    fs::remove_all(directory);
  }
}

}  // namespace
}  // namespace fathom
