#include <gtest/gtest.h>

#include "base/file.h"
#include "base/json.h"
#include "program.h"
#include "scratch.h"

namespace fathom {
namespace {

const std::string model = FATHOM_TEST_DATA "/models/llama-text";

TEST(GenerateVerb, StreamsTheTextThatTransformersGives) {
  const Json oracle = read_json(FATHOM_TEST_DATA "/generation.json");
  const test::Scratch scratch;
  for (const Json& entry : oracle["cases"]) {
    write_file(scratch / "prompt", entry["prompt"].get<std::string>());
    const auto run = test::run_program("generate --threads 1 --dtype f32 --max-tokens 40 --repeat-penalty " +
                                       entry["repetition_penalty"].dump() + " --file " +
                                       (scratch / "prompt").string() + " " + model);
    ASSERT_EQ(run.code, 0) << run.err;
    EXPECT_EQ(run.out, entry["text"].get<std::string>() + "\n");
    EXPECT_NE(run.err.find("generated 40 tokens"), std::string::npos) << run.err;
    EXPECT_NE(run.err.find("stopped by max_tokens"), std::string::npos) << run.err;
  }
}

TEST(GenerateVerb, FiguresAsJsonStandAlone) {
  const auto run = test::run_program(
      "generate --threads 1 --stop zzz --stop mind --prompt the --dtype f32 --json - " + model);
  ASSERT_EQ(run.code, 0) << run.err;
  const Json figures = parse_json(run.out, "standard output");
  EXPECT_EQ(figures["stopped_by"], "stop_string");
  EXPECT_EQ(figures["prompt_tokens"], 1);
  EXPECT_GT(figures["tokens"].size(), 3U);
  EXPECT_EQ(figures["text"].get<std::string>().find("mind"), std::string::npos);
}

TEST(GenerateVerb, TheSeedDecidesWhatIsSampled) {
  const std::string command = "generate --threads 1 -q --temperature 1 --max-tokens 20 --chat --prompt hi ";
  const auto first = test::run_program(command + "--seed 1 " + model);
  ASSERT_EQ(first.code, 0) << first.err;
  EXPECT_EQ(first.out, test::run_program(command + "--seed 1 " + model).out);
  EXPECT_NE(first.out, test::run_program(command + "--seed 2 " + model).out);
  EXPECT_EQ(first.err, "");
}

TEST(GenerateVerb, ErrorsSayWhatIsMissing) {
  EXPECT_EQ(test::run_program("generate " + model).code, 2);
  EXPECT_EQ(test::run_program("generate --prompt a --temperature -1 " + model).code, 2);
  EXPECT_EQ(test::run_program("generate --prompt a --top-p 0 " + model).code, 2);
  EXPECT_EQ(test::run_program("generate --prompt '' " + model).code, 2);
  EXPECT_EQ(test::run_program("generate --prompt a --stop '' " + model).code, 2);
  const auto run = test::run_program("generate --prompt 'more than the context takes' --context 4 " + model);
  EXPECT_EQ(run.code, 1);
  EXPECT_NE(run.err.find("--context"), std::string::npos) << run.err;
}

TEST(ChatVerb, AnswersEveryLineAndKeepsTheConversation) {
  const test::Scratch scratch;
  const auto turns = [&](const std::string& lines) {
    write_file(scratch / "lines", lines);
    return test::run_program("chat --threads 1 -q --temperature 0 --dtype f32 --max-tokens 8 " + model +
                             " <" + (scratch / "lines").string());
  };
  const auto once = turns("hello\n"), twice = turns("hello\nhello\n"),
             reset = turns("hello\n/reset\nhello\n");
  ASSERT_EQ(once.code, 0) << once.err;
  EXPECT_FALSE(once.out.empty());
  EXPECT_EQ(reset.out, once.out + once.out);
  EXPECT_TRUE(twice.out.starts_with(once.out));
  EXPECT_NE(twice.out, reset.out);  // the second answer sees the first turn
  EXPECT_EQ(turns("hello\n/exit\nhello\n").out, once.out);
}

}  // namespace
}  // namespace fathom
