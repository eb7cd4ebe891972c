#include "runtime/generate.h"

#include <gtest/gtest.h>

#include <csignal>
#include <filesystem>

#include "base/error.h"
#include "base/file.h"
#include "base/interrupt.h"
#include "base/progress.h"
#include "base/threads.h"
#include "formats/utf8.h"
#include "runtime/self_corpus.h"
#include "scratch.h"

namespace fathom {
namespace {

TEST(StopFilter, FindsStopStringsAcrossPiecesAndHoldsBackNoMoreThanItMust) {
  StopFilter filter({"\n\nQ:", "END"});
  EXPECT_EQ(filter.push("one\n"), "one");
  EXPECT_EQ(filter.push("two\n\n"), "\ntwo");
  EXPECT_EQ(filter.push("Q"), "");
  EXPECT_EQ(filter.push("."), "\n\nQ.");
  EXPECT_EQ(filter.push("EN"), "");
  EXPECT_FALSE(filter.stopped());
  EXPECT_EQ(filter.push("EENDtail"), "ENE");
  EXPECT_TRUE(filter.stopped());
  EXPECT_EQ(filter.finish(), "");
}

TEST(StopFilter, TheFirstOfSeveralCounts) {
  StopFilter filter({"bc", "abcd"});
  EXPECT_EQ(filter.push("xabc"), "xa");
  EXPECT_TRUE(filter.stopped());
  StopFilter repeating({"aab"});
  EXPECT_EQ(repeating.push("aaa"), "a");
  EXPECT_EQ(repeating.finish(), "aa");
  EXPECT_THROW(StopFilter({""}), UsageError);
}

class Generate : public ::testing::Test {
 protected:
  Generate() : oracle_(read_json(FATHOM_TEST_DATA "/generation.json")) {
    set_quiet(true);
    set_threads(1);  // the model is tiny
    clear_interrupt();
  }

  Engine new_engine(std::int64_t context = 0) const {
    return Engine(load_checkpoint(folder_), {.max_context = context});
  }

  /// Runs a prompt; `pieces_` gets what was streamed.
  Generated run(Engine& engine, const std::string& prompt, const GenerateOptions& options) {
    pieces_.clear();
    const int sequence = engine.open();
    const auto ids = tokenizer_.encode(prompt);
    return generate(engine, tokenizer_, sequence, ids, options,
                    [&](std::string_view piece, std::int64_t) { pieces_.emplace_back(piece); });
  }

  std::string streamed() const {
    std::string text;
    for (const std::string& piece : pieces_) text += piece;
    return text;
  }

  const std::filesystem::path folder_ = FATHOM_TEST_DATA "/models/llama-text";
  Tokenizer tokenizer_ = load_tokenizer(folder_);
  Json oracle_;
  std::vector<std::string> pieces_;
};

TEST_F(Generate, GreedyTextIsTransformers) {
  Engine engine = new_engine();
  for (const Json& entry : oracle_["cases"]) {
    GenerateOptions options{.max_tokens = 40};
    options.sampler.repetition_penalty = entry["repetition_penalty"].get<double>();
    const Generated generated = run(engine, entry["prompt"].get<std::string>(), options);
    EXPECT_EQ(generated.tokens, entry["ids"].get<std::vector<Token>>()) << entry["prompt"];
    EXPECT_EQ(generated.text, entry["text"].get<std::string>()) << entry["prompt"];
    EXPECT_EQ(generated.text, streamed());
    for (const std::string& piece : pieces_) EXPECT_FALSE(find_invalid_utf8(piece)) << "a torn character";
  }
}

// A decoder that takes a space from the start of a text, as SentencePiece's do, finds none to take behind a
// prompt: the text stays what transformers gives.
TEST_F(Generate, TheFirstSpaceOfAnAnswerStays) {
  const test::Scratch folder;
  Json json = read_json(folder_ / "tokenizer.json");
  json["decoder"] = {
      {"type", "Sequence"},
      {"decoders", {json["decoder"], {{"type", "Strip"}, {"content", " "}, {"start", 1}, {"stop", 0}}}}};
  write_file(folder / "tokenizer.json", json.dump());
  std::filesystem::copy_file(folder_ / "tokenizer_config.json", folder / "tokenizer_config.json");
  tokenizer_ = load_tokenizer(folder.path());
  Engine engine = new_engine();
  int spaces = 0;
  for (const Json& entry : oracle_["cases"]) {
    GenerateOptions options{.max_tokens = 40};
    options.sampler.repetition_penalty = entry["repetition_penalty"].get<double>();
    const auto expected = entry["text"].get<std::string>();
    EXPECT_EQ(run(engine, entry["prompt"].get<std::string>(), options).text, expected);
    spaces += expected.starts_with(" ") ? 1 : 0;
  }
  EXPECT_GT(spaces, 0);
}

TEST_F(Generate, StopsBeforeAStopStringThatSpansTokens) {
  Engine engine = new_engine();
  const Json& entry = oracle_["cases"][0];
  const auto ids = entry["ids"].get<std::vector<Token>>();
  const auto text = entry["text"].get<std::string>();
  // "mindUU" is the text of five tokens; the stop string begins inside one and ends inside another.
  const std::size_t at = text.find("indU");
  ASSERT_NE(at, std::string::npos);
  const Generated generated = run(engine, entry["prompt"], {.max_tokens = 40, .stop = {"never", "indU"}});
  EXPECT_EQ(generated.reason, StopReason::stop_string);
  EXPECT_EQ(generated.text, text.substr(0, at));
  EXPECT_EQ(generated.text, streamed());
  EXPECT_LT(generated.tokens.size(), ids.size());
  EXPECT_TRUE(std::equal(generated.tokens.begin(), generated.tokens.end(), ids.begin()));
}

TEST_F(Generate, StopsAtMaxTokensAndWhereTheContextEnds) {
  Engine engine = new_engine(10);
  const Generated few = run(engine, "the", {.max_tokens = 3});
  EXPECT_EQ(few.reason, StopReason::max_tokens);
  EXPECT_EQ(few.tokens.size(), 3U);
  const Generated none = run(engine, "the", {.max_tokens = 0});
  EXPECT_EQ(none.reason, StopReason::max_tokens);
  EXPECT_TRUE(none.tokens.empty());
  const Generated full = run(engine, "the", {});
  EXPECT_EQ(full.reason, StopReason::context_full);
  // Of the last token no keys and values are needed, so there is one more than the context holds.
  EXPECT_EQ(full.prompt_tokens + std::ssize(full.tokens), 11);
  EXPECT_THROW(run(engine, "a prompt that is longer than ten tokens of this model", {}), Error);
  EXPECT_THROW(run(engine, "", {}), UsageError);
}

TEST_F(Generate, StopsAtAnEndTokenUnlessToldOtherwise) {
  Engine engine = new_engine();
  // Sampling hot, every token comes up before long.
  GenerateOptions options{.max_tokens = 250, .sampler = {.temperature = 50, .seed = 3}};
  bool ended = false;
  for (; !ended && options.sampler.seed < 60; options.sampler.seed++) {
    const Generated generated = run(engine, "the", options);
    if (generated.reason != StopReason::end_of_text) continue;
    ended = true;
    EXPECT_EQ(std::ranges::count(tokenizer_.end_tokens(), generated.tokens.back()), 1);
    EXPECT_EQ(generated.text,
              tokenizer_.decode(std::span(generated.tokens).first(generated.tokens.size() - 1)));
    options.ignore_end = true;
    EXPECT_GT(run(engine, "the", options).tokens.size(), generated.tokens.size());
  }
  EXPECT_TRUE(ended);
}

TEST_F(Generate, ContinuesASequenceThatHoldsEarlierTokens) {
  Engine engine = new_engine();
  const auto ids = tokenizer_.encode("Hello, world!\n");
  const int sequence = engine.open();
  const std::span<const Token> all(ids);
  const Feed feed{sequence, all.first(ids.size() - 1), 0};
  engine.forward(std::span(&feed, 1));
  const Generated generated =
      generate(engine, tokenizer_, sequence, all, {.max_tokens = 20}, [](std::string_view, std::int64_t) {});
  EXPECT_EQ(generated.prompt_tokens, 1);
  EXPECT_EQ(generated.tokens, run(engine, "Hello, world!\n", {.max_tokens = 20}).tokens);
}

TEST_F(Generate, ASignalEndsItWithWhatIsThere) {
  Engine engine = new_engine();
  install_interrupt_handler();
  int pieces = 0;
  const auto ids = tokenizer_.encode("def f(x):\n    return x");
  const Generated generated = generate(engine, tokenizer_, engine.open(), ids, {.max_tokens = 100},
                                       [&](std::string_view, std::int64_t) {
                                         if (++pieces == 3) std::raise(SIGINT);
                                       });
  EXPECT_EQ(generated.reason, StopReason::interrupted);
  EXPECT_EQ(generated.tokens.size(), 3U);
  clear_interrupt();
  EXPECT_EQ(run(engine, "the", {.max_tokens = 2}).reason, StopReason::max_tokens);
}

TEST_F(Generate, TheModelsOwnTextsAreDeterministicAndDiffer) {
  Engine engine = new_engine();
  const SelfCorpusOptions options{.tokens = 300, .length = 20, .batch = 5, .seed = 4};
  const auto documents = self_corpus(engine, tokenizer_, options);
  std::int64_t tokens = 0, chats = 0;
  const Token chat = tokenizer_.id("<|im_start|>").value(), text = tokenizer_.id("<|endoftext|>").value();
  for (const auto& document : documents) {
    ASSERT_FALSE(document.empty());
    EXPECT_LE(document.size(), 20U);
    EXPECT_EQ(std::ranges::count(document, text), 0);
    tokens += std::ssize(document);
    chats += document.front() == chat ? 1 : 0;
  }
  EXPECT_GE(tokens, 300);
  EXPECT_GT(chats, 2);
  EXPECT_GT(std::ssize(documents) - chats, 2);
  EXPECT_NE(documents[0], documents[2]);
  EXPECT_EQ(documents, self_corpus(engine, tokenizer_, options));
  SelfCorpusOptions other = options;
  other.seed = 5;
  EXPECT_NE(documents, self_corpus(engine, tokenizer_, other));
}

TEST_F(Generate, AKeptCorpusIsReusedOnlyForTheSameOptions) {
  Engine engine = new_engine();
  const test::Scratch scratch;
  const auto file = scratch.path() / "samples.jsonl";
  SelfCorpusOptions options{.tokens = 60, .length = 20, .batch = 3};
  const auto documents = kept_self_corpus(engine, tokenizer_, options, file);
  const std::string content = read_file(file);
  EXPECT_EQ(kept_self_corpus(engine, tokenizer_, options, file), documents);
  options.seed = 1;
  EXPECT_NE(kept_self_corpus(engine, tokenizer_, options, file), documents);
  EXPECT_NE(read_file(file), content);
  write_file(file, content.substr(0, content.find("\"ids\"")) + "\"ids\": [99999]}\n");
  EXPECT_NO_THROW(kept_self_corpus(engine, tokenizer_, options, file));  // other options: made anew
  write_file(file, content.substr(0, content.size() / 2));
  options.seed = 0;
  EXPECT_THROW(kept_self_corpus(engine, tokenizer_, options, file), Error);
}

}  // namespace
}  // namespace fathom
