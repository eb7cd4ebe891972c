#include "corpus/token_store.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <zstd.h>

#include <chrono>
#include <fstream>

#include "base/error.h"
#include "base/file.h"
#include "base/progress.h"
#include "base/threads.h"
#include "corpus/inputs.h"
#include "scratch.h"

namespace fathom {
namespace {

namespace fs = std::filesystem;
using testing::ElementsAre;
using testing::HasSubstr;

class Tokens : public testing::Test {
 protected:
  void SetUp() override { set_quiet(true); }

  fs::path file(const std::string& name, std::string_view content) const {
    fs::create_directories((scratch / name).parent_path());
    write_file(scratch / name, content);
    return scratch / name;
  }
  TextInput input(const std::vector<fs::path>& files) const {
    return {.files = files, .reading = {}, .most_tokens = 1 << 30};
  }
  TokenStore cached(const TextInput& text, bool resume = false) const {
    return cached_tokens(text, tokenizer, vocab, scratch / "cache", resume);
  }
  std::string message(const TextInput& text, std::int64_t size = vocab) const {
    try {
      read_tokens(text, tokenizer, size);
    } catch (const Error& error) {
      return error.what();
    }
    return "no error";
  }

  static constexpr std::int64_t vocab = 1 << 20;
  test::Scratch scratch;
  Tokenizer tokenizer = load_tokenizer(FATHOM_TEST_DATA "/models/llama-text");
};

std::vector<Token> copied(std::span<const Token> tokens) { return {tokens.begin(), tokens.end()}; }

// tokenizer_config.json alone names these; the tokenizer gives them ids that the model has no embedding for.
TEST_F(Tokens, TokensBeyondTheModelsEmbeddingAreNamed) {
  const fs::path model = FATHOM_TEST_DATA "/models/llama-text";
  fs::copy_file(model / "tokenizer.json", scratch / "tokenizer.json");
  const auto text = input({file("a.txt", "one <pad> two")});
  file("tokenizer_config.json", R"({"eos_token": "<|im_end|>", "pad_token": "<pad>"})");
  tokenizer = load_tokenizer(scratch.path());
  EXPECT_THAT(message(text, 320),
              HasSubstr("becomes token 320 ('<pad>'), but the model's vocabulary has 320"));
  EXPECT_EQ(message(text, 321), "no error");
  file("tokenizer_config.json", R"({"eos_token": "<end>"})");
  tokenizer = load_tokenizer(scratch.path());
  EXPECT_THAT(message(text, 320), HasSubstr("end-of-text token '<end>' has the id 320"));
}

TEST_F(Tokens, DocumentsAreSeparatedAndKnowWhereTheyComeFrom) {
  const auto lines = file("a.jsonl", "{\"text\": \"one\"}\n\n{\"text\": \"\"}\n{\"text\": \"two two\"}\n");
  const auto plain = file("b.txt", "three");
  const TokenStore store = read_tokens(input({lines, plain}), tokenizer, vocab);
  std::vector<Token> expected;
  for (const char* text : {"one", "two two", "three"}) {
    for (const Token id : tokenizer.encode(text, false)) expected.push_back(id);
    expected.push_back(*tokenizer.eos());
  }
  EXPECT_EQ(copied(store.tokens), expected);
  ASSERT_EQ(store.documents.size(), 3U);
  EXPECT_EQ(store.describe(0), lines.string() + " line 1");
  EXPECT_EQ(store.describe(store.document_of(store.documents[1].token)), lines.string() + " line 4");
  EXPECT_EQ(store.describe(store.document_of(store.size() - 1)), plain.string());
}

TEST_F(Tokens, LongTextsAreReadInPiecesAndAreTheSameTokens) {
  std::string text;
  for (int i = 0; text.size() < 5'000'000; ++i) {
    text += i % 3 == 0 ? "\n\n  Über " + std::to_string(i) : " word(" + std::to_string(i * 37 % 101) + "),\n";
    text += i % 7 == 0 ? "next\nLine" : "";
  }
  std::string packed(ZSTD_compressBound(text.size()), '\0');
  packed.resize(ZSTD_compress(packed.data(), packed.size(), text.data(), text.size(), 3));
  const TokenStore store = read_tokens(input({file("a.txt.zst", packed)}), tokenizer, vocab);
  std::vector<Token> whole = tokenizer.encode(text, false);
  whole.push_back(*tokenizer.eos());
  EXPECT_EQ(copied(store.tokens), whole);
  EXPECT_EQ(store.documents.size(), 1U);
}

TEST_F(Tokens, ACacheHoldsTheSameAndIsUsedAgain) {
  std::string lines;
  for (int i = 0; i < 10'000; ++i) lines += "{\"text\": \"number " + std::to_string(i) + "\"}\n";
  const TextInput text = input({file("a.jsonl", lines)});
  const TokenStore memory = read_tokens(text, tokenizer, vocab);
  const TokenStore first = cached(text);
  EXPECT_EQ(copied(first.tokens), copied(memory.tokens));
  EXPECT_EQ(first.digest, memory.digest);
  EXPECT_EQ(first.describe(9'999), memory.describe(9'999));

  const auto made = fs::last_write_time(scratch / "cache" / "tokens.bin");
  EXPECT_EQ(cached(text).digest, memory.digest);
  EXPECT_EQ(fs::last_write_time(scratch / "cache" / "tokens.bin"), made);

  file("a.jsonl", "{\"text\": \"other\"}");
  EXPECT_NE(cached(text).digest, memory.digest);
}

TEST_F(Tokens, ARunThatGoesOnKeepsTheTextThatItBeganWith) {
  TextInput text = input({file("a.jsonl", "{\"text\": \"one\"}\n{\"text\": \"two\"}\n")});
  text.most_tokens = 1;
  const std::string digest = cached(text).digest;
  text.most_tokens = 100;
  EXPECT_EQ(cached(text, true).digest, digest);
  EXPECT_NE(cached(text, false).digest, digest);
}

TEST_F(Tokens, AThreadMoreChangesNothing) {
  std::string lines;
  for (int i = 0; i < 5'000; ++i) lines += "{\"text\": \"number " + std::to_string(i) + "\"}\n";
  const TextInput text = input({file("a.jsonl", lines)});
  set_threads(1);
  const std::string one = read_tokens(text, tokenizer, vocab).digest;
  set_threads(2);
  EXPECT_EQ(read_tokens(text, tokenizer, vocab).digest, one);
  set_threads(1);
}

TEST_F(Tokens, ReadOtherwiseItIsAnotherText) {
  TextInput text = input({file("a.json", "[{\"text\": \"one\"}, {\"text\": \"two\"}]")});
  const TokenStore records = cached(text);
  EXPECT_EQ(records.documents.size(), 2U);
  text.reading.format = TextFormat::text;
  const TokenStore plain = cached(text);
  EXPECT_EQ(plain.documents.size(), 1U);
  EXPECT_EQ(tokenizer.decode(plain.tokens, false), "[{\"text\": \"one\"}, {\"text\": \"two\"}]<|im_end|>");
}

TEST_F(Tokens, ATornCacheIsMadeAnew) {
  const TextInput text = input({file("a.txt", "some words to tokenise, and some more")});
  const std::string digest = cached(text).digest;
  for (const char* name : {"tokens.bin", "documents.bin", "cache.json"}) {
    const fs::path part = scratch / "cache" / name;
    fs::resize_file(part, fs::file_size(part) / 2);
    EXPECT_EQ(cached(text).digest, digest) << name;
    fs::remove(part);
    EXPECT_EQ(cached(text).digest, digest) << name;
  }
}

TEST_F(Tokens, ReadingEndsWhenThereIsEnough) {
  TextInput text =
      input({file("a.jsonl", "{\"text\": \"one\"}\n{\"text\": \"two\"}\nno JSON, never read\n")});
  text.most_tokens = static_cast<std::int64_t>(tokenizer.encode("one", false).size()) + 1;
  EXPECT_EQ(read_tokens(text, tokenizer, vocab).documents.size(), 2U);
}

TEST_F(Tokens, ReadingPassesOverPromptsThatFillSequences) {
  const std::string chat = "{\"messages\": [{\"role\": \"user\", \"content\": \"" + std::string(200, '?') +
                           "\"}, {\"role\": \"assistant\", \"content\": \"Yes\"}]}\n";
  TextInput text = input({file("chats.jsonl", chat + chat + chat + chat + "no JSON, never read\n")});
  text.context = 16;
  text.most_tokens = 40;  // an answer of four tokens lies in one sequence or two
  const TokenStore store = read_tokens(text, tokenizer, vocab);
  EXPECT_GE(store.documents.size(), 2U);
  text.context = 4096;  // one sequence, in which the first answer is learned
  EXPECT_EQ(read_tokens(text, tokenizer, vocab).documents.size(), 1U);
}

TEST_F(Tokens, OfAConversationTheAssistantIsLearned) {
  const auto lines =
      file("chat.jsonl",
           "{\"messages\": [{\"role\": \"user\", \"content\": \"Hi\"}, {\"role\": \"assistant\", "
           "\"content\": \"Hello\"}, {\"role\": \"user\", \"content\": \"Bye\"}, {\"role\": "
           "\"assistant\", \"content\": \"Good bye\"}]}\n{\"text\": \"plain\"}\n");
  const TokenStore store = read_tokens(input({lines}), tokenizer, vocab);
  std::string all, learned;
  for (const Token token : store.tokens.first(static_cast<std::size_t>(store.documents[1].token))) {
    const Token id = token < 0 ? ~token : token;
    all += tokenizer.decode(std::vector{id}, false);
    if (token >= 0) learned += tokenizer.decode(std::vector{id}, false);
  }
  EXPECT_EQ(all,
            "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\nHello<|im_end|>\n"
            "<|im_start|>user\nBye<|im_end|>\n<|im_start|>assistant\nGood bye<|im_end|>\n<|im_end|>");
  EXPECT_EQ(learned, "Hello<|im_end|>Good bye<|im_end|>");
}

TEST_F(Tokens, SaysWhatIsWrongWithTheData) {
  const auto has = [](const auto&... parts) { return testing::AllOf(HasSubstr(parts)...); };
  EXPECT_THAT(message(input({file("empty.txt", "")})), has("empty.txt", "empty"));
  EXPECT_THAT(message(input({file("empty.jsonl", "\n\n")})), has("empty.jsonl", "empty"));
  EXPECT_THAT(message(input({file("none.jsonl", "{\"text\": \"\"}")})), has("none.jsonl", "no text"));
  EXPECT_THAT(message(input({file("a.jsonl", "{\"text\": \"x\"}\nnot JSON")})),
              has("a.jsonl: line 2", "JSON"));
  EXPECT_THAT(message(input({file("b.jsonl", "{\"text\": \"\xff\"}")})), has("b.jsonl: line 1", "UTF-8"));
  EXPECT_THAT(message(input({file("c.jsonl", "{\"body\": \"x\"}")})),
              has("c.jsonl: line 1", "'text'", "'messages'"));
  EXPECT_THAT(message(input({file("d.txt", "bad \xff")})), has("d.txt", "byte 4", "UTF-8"));
  EXPECT_THAT(message(input({file("e.parquet", "PAR1")})), has("e.parquet", "Parquet", "JSON lines"));
  EXPECT_THAT(message(input({file("f.jsonl", "{\"messages\": [\"Hi\"]}")})),
              has("f.jsonl: line 1", "conversation"));
  EXPECT_THAT(
      message(input({file("g.jsonl", "{\"messages\": [{\"role\": \"user\", \"content\": \"Hi\"}]}")})),
      has("g.jsonl: line 1", "the assistant says nothing"));
  EXPECT_THAT(message(input({file("h.txt", "words")}), 10), has("h.txt", "vocabulary has 10"));
  EXPECT_THAT(message(input({scratch / "absent.txt"})), has("absent.txt", "cannot open"));
}

TEST_F(Tokens, InputsAreFilesDirectoriesAndPatterns) {
  const fs::path a = file("dir/a.txt", "a"), b = file("dir/sub/b.jsonl.zst", "b"), c = file("dir/c.md", "c");
  file("dir/.hidden/d.txt", "d");
  const fs::path f = file("dir/F.JSONL", "f"), g = file("dir/sub/g.json.ZST", "g");
  file("dir/e.bin", "e");
  EXPECT_THAT(find_inputs((scratch / "dir").string()), ElementsAre(f, a, c, b, g));
  EXPECT_THAT(find_inputs((scratch / "dir").string() + "/*.[mt]*"), ElementsAre(a, c));
  EXPECT_THAT(find_inputs(a.string()), ElementsAre(a));
  const fs::path odd = file("dir/odd[1].txt", "o");
  EXPECT_THAT(find_inputs(odd.string()), ElementsAre(odd));
  EXPECT_THROW(find_inputs((scratch / "dir").string() + "/*.pdf"), Error);
  fs::create_directories(scratch / "bare");
  EXPECT_THROW(find_inputs((scratch / "bare").string()), Error);
}

}  // namespace
}  // namespace fathom
