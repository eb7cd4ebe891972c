// Against lm-evaluation-harness's own scores (tests/oracle/make_queries.py).
#include "eval/choices.h"

#include <gtest/gtest.h>

#include <filesystem>

#include "base/error.h"
#include "base/file.h"
#include "base/json.h"
#include "base/threads.h"
#include "model/checkpoint.h"
#include "scratch.h"

namespace fathom {
namespace {

namespace fs = std::filesystem;

const fs::path model = FATHOM_TEST_DATA "/models/llama-text";

/// The model's tokenizer with a post-processor that puts the named tokens around a text.
Tokenizer tokenizer_with(const Json& before, const Json& behind) {
  const test::Scratch folder;
  Json json = read_json(model / "tokenizer.json");
  Json single = Json::array(), tokens = Json::object();
  const auto add = [&](const Json& name) {
    if (name.is_null()) return;
    const Token id = load_tokenizer(model).id(name.get<std::string>()).value();
    single.push_back({{"SpecialToken", {{"id", name}, {"type_id", 0}}}});
    tokens[name.get<std::string>()] = {{"id", name}, {"ids", {id}}, {"tokens", {name}}};
  };
  add(before);
  single.push_back({{"Sequence", {{"id", "A"}, {"type_id", 0}}}});
  add(behind);
  json["post_processor"] = {
      {"type", "TemplateProcessing"}, {"single", single}, {"pair", single}, {"special_tokens", tokens}};
  write_file(folder / "tokenizer.json", json.dump());
  fs::copy_file(model / "tokenizer_config.json", folder / "tokenizer_config.json");
  return load_tokenizer(folder.path());
}

void expect_scores_of_lm_eval(const Json& behind) {
  set_threads(1);
  for (const Json& run : read_json(FATHOM_TEST_DATA "/eval/queries.json")) {
    const Tokenizer tokenizer = tokenizer_with(run["before"], behind);
    Engine engine(load_checkpoint(model), {.max_context = run["context_length"].get<std::int64_t>()});
    std::vector<Query> queries;
    for (const Json& query : run["queries"])
      queries.push_back({query["context"], query["continuations"].get<std::vector<std::string>>()});
    std::int64_t done = 0;
    const auto results =
        score_queries(engine, tokenizer, queries, [&](std::int64_t count) { done += count; });
    EXPECT_EQ(done, std::ssize(queries));
    for (std::size_t i = 0; i < queries.size(); ++i) {
      const Json& expected = run["queries"][i];
      SCOPED_TRACE(expected.dump() + " behind " + run["before"].dump());
      ASSERT_EQ(results[i].size(), queries[i].continuations.size());
      for (std::size_t c = 0; c < results[i].size(); ++c) {
        EXPECT_NEAR(results[i][c].log_likelihood, expected["log_likelihoods"][c].get<double>(), 1e-3);
        EXPECT_EQ(results[i][c].greedy, expected["greedy"][c].get<bool>());
      }
    }
  }
}

TEST(Choices, ScoresAreThoseOfLmEval) { expect_scores_of_lm_eval(nullptr); }

TEST(Choices, AnEndTokenBehindATextIsNoPartOfContextOrChoice) { expect_scores_of_lm_eval("<|im_end|>"); }

TEST(Choices, AContextIsCutOnlyAsFarAsEachContinuationNeeds) {
  const Tokenizer tokenizer = load_tokenizer(model);
  const Query query = {"The river is wide and the water is cold.", {" It", " It is deep."}};
  const auto whole = encode_query(tokenizer, query, 256), cut = encode_query(tokenizer, query, 12);
  ASSERT_EQ(whole.size(), 1U);
  ASSERT_EQ(cut.size(), 2U);
  for (std::size_t c = 0; c < cut.size(); ++c) {
    const auto& continuation = whole[0].continuations[c];
    ASSERT_EQ(cut[c].continuations.size(), 1U);
    EXPECT_EQ(cut[c].continuations[0], continuation);
    const auto kept = static_cast<std::ptrdiff_t>(12 + 1 - continuation.size());
    EXPECT_EQ(cut[c].context, std::vector<Token>(whole[0].context.end() - kept, whole[0].context.end()));
  }
  EXPECT_THROW(encode_query(tokenizer, query, 2), Error);
}

TEST(Choices, AContinuationThatMergesIntoItsContextIsAnError) {
  EXPECT_THROW(encode_query(load_tokenizer(model), {"The ri", {""}}, 256), Error);
}

}  // namespace
}  // namespace fathom
