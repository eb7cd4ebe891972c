#include "eval/tasks.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <filesystem>

#include "base/error.h"
#include "base/file.h"
#include "base/progress.h"
#include "base/threads.h"
#include "model/checkpoint.h"
#include "scratch.h"

namespace fathom {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;

namespace fs = std::filesystem;

const fs::path sets = FATHOM_TEST_DATA "/eval";
const fs::path model = FATHOM_TEST_DATA "/models/llama-text";

/// What tests/oracle/check_eval.py computed with transformers.
class TaskAgainstTransformers : public testing::TestWithParam<std::string> {};

TEST_P(TaskAgainstTransformers, SameLikelihoodsAndAccuracies) {
  set_threads(1);  // more would take longer to start than to run
  set_quiet(true);
  Engine engine(load_checkpoint(model));
  const Json expected = read_json(sets / "expected.json")[GetParam()];
  const TaskResult result = run_task(engine, load_tokenizer(model), GetParam(), sets, 0);
  const auto log_likelihoods = expected["log_likelihoods"].get<std::vector<std::vector<double>>>();
  ASSERT_EQ(result.samples.size(), log_likelihoods.size());
  for (std::size_t i = 0; i < log_likelihoods.size(); ++i) {
    ASSERT_EQ(result.samples[i].log_likelihoods.size(), log_likelihoods[i].size());
    for (std::size_t c = 0; c < log_likelihoods[i].size(); ++c)
      EXPECT_NEAR(result.samples[i].log_likelihoods[c], log_likelihoods[i][c], 1e-3)
          << "example " << i << ", " << c;
  }
  EXPECT_EQ(result.examples, static_cast<std::int64_t>(log_likelihoods.size()));
  EXPECT_DOUBLE_EQ(result.acc, expected["acc"].get<double>());
  EXPECT_DOUBLE_EQ(result.acc_norm, expected["acc_norm"].get<double>());
  EXPECT_DOUBLE_EQ(result.acc_bytes, expected["acc_bytes"].get<double>());
  if (expected.contains("perplexity"))
    EXPECT_NEAR(result.perplexity / expected["perplexity"].get<double>(), 1, 1e-3);
  else
    EXPECT_EQ(result.perplexity, 0);
}

INSTANTIATE_TEST_SUITE_P(Tasks, TaskAgainstTransformers,
                         testing::Values("piqa", "winogrande", "lambada_openai", "mmlu", "openbookqa"));

TEST(Tasks, MmluPutsTheSolvedQuestionsOfItsSubjectFirst) {
  const auto examples = read_task("mmlu", sets, 1);
  ASSERT_EQ(examples.size(), 1U);
  EXPECT_EQ(examples[0].queries[0].context,
            "The following are multiple choice questions (with answers) about high water.\n\n"
            "What is wet?\nA. a stone\nB. the river\nC. a light\nD. a word\nAnswer: B\n\n"
            "What is cold?\nA. ice\nB. fire\nC. tea\nD. toast\nAnswer: A\n\n"
            "What is deep?\nA. a cup\nB. a plate\nC. the sea\nD. a leaf\nAnswer:");
  EXPECT_THAT(examples[0].queries[0].continuations, ElementsAre(" A", " B", " C", " D"));
  EXPECT_EQ(examples[0].gold, 2);
}

TEST(Tasks, WinograndeScoresOneContinuationAfterEachContext) {
  const auto examples = read_task("winogrande", sets, 0);
  ASSERT_EQ(examples[0].queries.size(), 2U);
  EXPECT_EQ(examples[0].queries[1].context, "The child looked at the mother because the mother");
  EXPECT_THAT(examples[0].queries[1].continuations, ElementsAre(" was speaking."));
  EXPECT_TRUE(examples[0].lengths.empty());
}

TEST(Tasks, LimitTakesTheFirstExamples) {
  EXPECT_EQ(read_task("piqa", sets, 2).size(), 2U);
  EXPECT_EQ(read_task("piqa", sets, 0).size(), 4U);
  EXPECT_EQ(read_task("piqa", sets, 100).size(), 4U);
}

TEST(Tasks, LengthsAreCharactersAndBytesOfTheChoicesAlone) {
  const test::Scratch folder;
  write_file(folder / "piqa.jsonl", R"({"query": "q", "choices": ["Größe", "日本", ""], "gold": 0})");
  const auto lengths = read_task("piqa", folder.path(), 0)[0].lengths;
  ASSERT_EQ(lengths.size(), 3U);
  EXPECT_EQ(lengths[0].characters, 5);
  EXPECT_EQ(lengths[0].bytes, 7);
  EXPECT_EQ(lengths[1].characters, 2);
  EXPECT_EQ(lengths[1].bytes, 6);
  EXPECT_EQ(lengths[2].characters, 0);
}

TEST(Tasks, MmluQuestionsLoseWhiteSpaceAsPythonSeesIt) {
  const test::Scratch folder;
  const std::string row =
      R"({"subject": "s", "question": "\u00a0\u001cWhat?\u2003\n", "choices": ["a", "b", "c", "d"], "gold": 1})";
  write_file(folder / "mmlu_dev.jsonl", row);
  write_file(folder / "mmlu_test.jsonl", row);
  EXPECT_THAT(read_task("mmlu", folder.path(), 0)[0].queries[0].context, HasSubstr("\n\nWhat?\nA. a\n"));
}

TEST(Tasks, ErrorsNameFileLineAndField) {
  const test::Scratch folder;
  const auto message_for = [&](const std::string& content) -> std::string {
    write_file(folder / "piqa.jsonl", content);
    try {
      read_task("piqa", folder.path(), 0);
    } catch (const Error& e) {
      return e.what();
    }
    return "no error";
  };
  const std::string good = R"({"query": "q", "choices": ["a", "b"], "gold": 0})"
                           "\n";
  EXPECT_THAT(message_for(good + "{"), HasSubstr("piqa.jsonl, line 2"));
  EXPECT_THAT(message_for(good + "\n" + R"({"query": "q", "choices": ["a", "b"], "gold": 2})"),
              testing::AllOf(HasSubstr("line 3"), HasSubstr("gold")));
  EXPECT_THAT(message_for(R"({"query": "q", "choices": ["a", 5], "gold": 0})"), HasSubstr("choices"));
  EXPECT_THAT(message_for(R"({"query": "q", "choices": ["a"], "gold": 0})"), HasSubstr("at least 2"));
  EXPECT_THAT(message_for(R"({"choices": ["a", "b"], "gold": 0})"), HasSubstr("query"));
  EXPECT_THAT(message_for("\n"), HasSubstr("no examples"));
  EXPECT_EQ(message_for(good), "no error");
  EXPECT_THROW(read_task("hellaswag", folder.path(), 0), Error);  // no such file
  EXPECT_THROW(read_task("chess", sets, 0), UsageError);
}

}  // namespace
}  // namespace fathom
