#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <chrono>
#include <fstream>
#include <sstream>
#include <vector>

#include "base/json.h"
#include "program.h"

namespace fathom {
namespace {

using test::run_program;
using testing::HasSubstr;

const std::string model = FATHOM_TEST_DATA "/models/llama ";  // a context of 256

TEST(Bench, EveryCombinationIsATestInEveryForm) {
  const test::Scratch scratch;
  const auto csv = scratch / "speed.csv", json = scratch / "speed.json";
  const test::Run run = run_program("bench " + model +
                                    "--prompt 16,0 --generate 2 --depth 5 --batch 1,3 --repetitions 2 "
                                    "--threads 1 --dtype f32 --csv " +
                                    csv.string() + " --json " + json.string());
  ASSERT_EQ(run.code, 0) << run.err;
  std::istringstream table(run.out);
  std::string line;
  std::getline(table, line);
  EXPECT_THAT(line, testing::MatchesRegex("[|] model .*[|] test .*[|] tok/s .*[|] GB/s .*[|] GFLOP/s .*"));
  for (const char* name : {"| pp16 @ d5 ", "| tg2 @ d5 ", "| pp16 @ d5 b3 ", "| tg2 @ d5 b3 "})
    EXPECT_THAT(run.out, HasSubstr(name));
  EXPECT_THAT(run.out, HasSubstr("the first token"));

  const Json figures = read_json(json);
  EXPECT_EQ(figures["threads"], 1);
  EXPECT_EQ(figures["dtype"], "f32");
  EXPECT_EQ(figures["kv"], "f32");
  EXPECT_GE(figures["first_token_seconds"].get<double>(), figures["load_seconds"].get<double>());
  ASSERT_EQ(figures["tests"].size(), 4U);
  for (const Json& test : figures["tests"]) {
    EXPECT_GT(test["tokens_per_second"].get<double>(), 0);
    EXPECT_LE(test["min"].get<double>(), test["median"].get<double>());
    EXPECT_GT(test["read_ceiling"].get<double>(), 0);
  }

  std::ifstream file(csv);
  std::vector<std::size_t> columns;
  for (std::string row; std::getline(file, row);)
    columns.push_back(static_cast<std::size_t>(std::ranges::count(row, ',')));
  ASSERT_EQ(columns.size(), 5U);  // a header and the tests
}

TEST(Bench, StandardOutputIsOneFormAlone) {
  const std::string small = model + "--prompt 4 --generate 0 --repetitions 1 --dtype f32 --threads 1 ";
  const test::Run json = run_program("bench " + small + "--json -");
  ASSERT_EQ(json.code, 0) << json.err;
  EXPECT_EQ(parse_json(json.out, "standard output")["tests"].size(), 1U);
  EXPECT_THAT(json.err, HasSubstr("| pp4 "));
  const test::Run csv = run_program("bench " + small + "--csv -");
  EXPECT_THAT(csv.out, testing::StartsWith("model,parameters,"));
}

TEST(Bench, GivesTheRatioToAnotherRun) {
  const test::Scratch scratch;
  const auto json = scratch / "speed.json", csv = scratch / "speed.csv";
  const std::string small = model + "--repetitions 3 --dtype f32 --threads 1 --depth 0 --generate 4 ";
  const test::Run run = run_program(
      "bench " + small + "--prompt 16,20 --compare " FATHOM_TEST_DATA "/bench/llama_bench.jsonl --json " +
      json.string() + " --csv " + csv.string());
  ASSERT_EQ(run.code, 0) << run.err;
  EXPECT_THAT(run.out, HasSubstr("| llama.cpp tok/s | ratio "));
  EXPECT_THAT(run.out, HasSubstr("| 156.58 "));
  EXPECT_THAT(run.out, HasSubstr("compares 1 thread with 2"));
  EXPECT_THAT(run.out, testing::ContainsRegex("pp20 .*[|] - +[|] - +[|]"));
  EXPECT_THAT(run.err, HasSubstr("not measured here: pp8+tg4, pp16 @ d32, tg4 @ d32, pp8+tg4 @ d32\n"));

  const Json tests = read_json(json)["tests"];
  ASSERT_EQ(tests.size(), 3U);
  const Json& beside = tests[0]["compared"];
  EXPECT_EQ(beside["engine"], "llama.cpp");
  EXPECT_DOUBLE_EQ(beside["ratio"].get<double>(),
                   tests[0]["median"].get<double>() / beside["tokens_per_second"].get<double>());
  EXPECT_TRUE(tests[1]["compared"].is_null());

  std::ifstream file(csv);
  std::string names, first, second;
  std::getline(file, names);
  std::getline(file, first);
  std::getline(file, second);
  EXPECT_THAT(names, testing::EndsWith(",compared_engine,compared_tokens_per_second,compared_ratio"));
  EXPECT_THAT(first, HasSubstr(",\"llama.cpp\",156.5815,"));
  EXPECT_THAT(second, testing::EndsWith(",\"\",\"\",\"\""));

  // What it has just written is as good.
  const test::Run again = run_program("bench " + small + "--prompt 16 --compare " + json.string());
  ASSERT_EQ(again.code, 0) << again.err;
  EXPECT_THAT(again.out, HasSubstr("| fathom tok/s | ratio "));
  EXPECT_THAT(again.out, testing::Not(HasSubstr("compares")));
  EXPECT_THAT(again.err, HasSubstr("not measured here: pp20\n"));
}

TEST(Bench, SaysWhyARunCannotBeCompared) {
  const test::Run none = run_program("bench " + model + "--compare /no/such.json");
  EXPECT_EQ(none.code, 1);
  EXPECT_THAT(none.err, HasSubstr("/no/such.json"));
  const test::Run other =
      run_program("bench " + model + "--compare " FATHOM_TEST_DATA "/models/llama/config.json");
  EXPECT_EQ(other.code, 1);
  EXPECT_THAT(other.err, HasSubstr("llama/config.json: an object of the fields "));
  EXPECT_THAT(other.err, HasSubstr("llama-bench -o json"));
}

TEST(Bench, IsInterruptedAmongTokensOnTheirWay) {
  const auto begun = std::chrono::steady_clock::now();
  const auto later = [&] {
    return std::chrono::steady_clock::now() - begun > std::chrono::milliseconds(400);
  };
  EXPECT_EQ(test::interrupted_code(
                "bench " + model + "--prompt 0 --generate 250 --batch 8 --groups 2 -r 1000", later),
            130);
}

TEST(Bench, SaysWhatIsWrongBeforeAnyWork) {
  const std::pair<const char*, const char*> wrong[] = {
      {"--prompt 0 --generate 0", "nothing to measure"},
      {"--prompt 250 --generate 1 --depth 7", "pp250 @ d7 needs a context of 257 tokens"},
      {"--prompt 1,x", "--prompt"},
      {"--batch 0", "--batch"},
      {"--repetitions 0", "--repetitions"},
      {"--prompt 8 --generate 1 --dtype f17", "--dtype: f17 not in {auto"},
      {"--prompt 8 --generate 1 --kv int4", "--kv: int4 not in {auto,bf16,int8}"},
      {"--json - --csv -", "cannot both"}};
  for (const auto& [arguments, message] : wrong) {
    const test::Run run = run_program("bench " + model + arguments);
    EXPECT_EQ(run.code, 2) << arguments << run.err;
    EXPECT_EQ(run.out, "") << arguments;
    EXPECT_THAT(run.err, HasSubstr(message));
  }
  EXPECT_EQ(run_program("bench /no/such/model").code, 1);
}

}  // namespace
}  // namespace fathom
