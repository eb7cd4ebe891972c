#include "eval/compared_runs.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <filesystem>
#include <string>
#include <utility>

#include "base/error.h"
#include "base/file.h"
#include "damage.h"
#include "scratch.h"

namespace fathom {
namespace {

using testing::AllOf;
using testing::ElementsAre;
using testing::HasSubstr;

const std::filesystem::path data = FATHOM_TEST_DATA "/bench";

/// What `fathom bench --json` writes, as far as it is read.
constexpr const char* own = R"({
  "model": "m.gguf", "processor": "AMD EPYC", "threads": 4,
  "tests": [
    {"test": "pp16 @ d5", "phase": "prompt", "tokens": 16, "depth": 5, "batch": 1, "groups": 1,
     "tokens_per_second": 90.0, "median": 100.0},
    {"test": "tg4 @ b8 g2", "phase": "generate", "tokens": 4, "depth": 0, "batch": 8, "groups": 2,
     "tokens_per_second": 55.0, "median": 50.0}]})";

double rate(const ComparedRun& run, const Workload& work) {
  const ComparedTest* test = run.counterpart(work);
  return test == nullptr ? 0 : test->rate;
}

ComparedRun read_text(const std::string& text) {
  const test::Scratch scratch;
  write_file(scratch / "speed.json", text);
  return read_compared_run(scratch / "speed.json");
}

TEST(ComparedRuns, ReadsLlamaBench) {
  const ComparedRun run = read_compared_run(data / "llama_bench.json");
  EXPECT_EQ(run.engine, "llama.cpp");
  ASSERT_EQ(run.tests.size(), 2U);
  EXPECT_EQ(run.tests[0].name(), "pp16");
  EXPECT_EQ(run.tests[0].threads, 2);
  EXPECT_EQ(run.tests[0].machine, "AMD EPYC");
  EXPECT_DOUBLE_EQ(rate(run, {Phase::prompt, 16}), (15.0397 + 67.4415) / 2);
  EXPECT_DOUBLE_EQ(rate(run, {Phase::generate, 4}), (17.5845 + 10.3135) / 2);
}

TEST(ComparedRuns, OfSeveralSettingsTheFastestCounts) {
  // A line a test, each without and with flash attention.
  const ComparedRun run = read_compared_run(data / "llama_bench.jsonl");
  EXPECT_EQ(run.engine, "llama.cpp");
  EXPECT_EQ(run.tests.size(), 12U);
  EXPECT_DOUBLE_EQ(rate(run, {Phase::prompt, 16}), (208.061 + 105.102) / 2);
  EXPECT_DOUBLE_EQ(rate(run, {Phase::generate, 4, 32}), (0.928596 + 4.8327) / 2);
  const Json beside = run.beside({Phase::prompt, 16}, 313.163);
  EXPECT_EQ(beside["engine"], "llama.cpp");
  EXPECT_DOUBLE_EQ(beside["tokens_per_second"].get<double>(), 156.5815);
  EXPECT_DOUBLE_EQ(beside["ratio"].get<double>(), 2);
}

TEST(ComparedRuns, WhatHasNoCounterpartIsNamedOnce) {
  const ComparedRun run = read_compared_run(data / "llama_bench.jsonl");
  const Workload works[] = {{Phase::prompt, 16},        {Phase::prompt, 8},  {Phase::generate, 4},
                            {Phase::generate, 4, 0, 2}, {Phase::prompt, 4},  {Phase::generate, 16},
                            {Phase::generate, 4, 31},   {Phase::prompt, 12}, {Phase::prompt, 16, 16}};
  for (const Workload& work : works) {
    const bool there =
        work.batch == 1 && work.depth == 0 && work.tokens == (work.phase == Phase::prompt ? 16 : 4);
    EXPECT_EQ(run.counterpart(work) != nullptr, there) << work.name();
    EXPECT_EQ(run.beside(work, 1).is_null(), !there) << work.name();
  }
  EXPECT_THAT(run.unmatched(works), ElementsAre("pp8+tg4", "pp16 @ d32", "tg4 @ d32", "pp8+tg4 @ d32"));
}

TEST(ComparedRuns, ReadsBatches) {
  const ComparedRun run = read_compared_run(data / "llama_batched_bench.jsonl");
  EXPECT_EQ(run.engine, "llama.cpp");
  EXPECT_DOUBLE_EQ(rate(run, {Phase::prompt, 16, 0, 2}), 13.699029);
  EXPECT_DOUBLE_EQ(rate(run, {Phase::prompt, 16}), 19.050907) << "a prompt that all share is one";
  EXPECT_DOUBLE_EQ(rate(run, {Phase::generate, 4, 16, 1}), 1.468454);
  EXPECT_DOUBLE_EQ(rate(run, {Phase::generate, 4, 16, 2}), 3.533572);
  EXPECT_DOUBLE_EQ(rate(run, {Phase::generate, 4, 16, 2, 2}), 3.533572) << "whatever our groups are";
  EXPECT_DOUBLE_EQ(rate(run, {Phase::generate, 4, 0, 2}), 2.142770) << "without a prompt, whose speed is nan";
  EXPECT_DOUBLE_EQ(rate(run, {Phase::prompt, 4, 0, 2}), 121.684113) << "without generation";
}

TEST(ComparedRuns, ReadsItsOwn) {
  const std::string in_one_line = parse_json(own, "own").dump();
  for (const std::string& text : {std::string(own), in_one_line, in_one_line + "\n" + in_one_line}) {
    const ComparedRun run = read_text(text);
    EXPECT_EQ(run.engine, "fathom");
    EXPECT_DOUBLE_EQ(rate(run, {Phase::prompt, 16, 5}), 100) << "the median";
    EXPECT_DOUBLE_EQ(rate(run, {Phase::generate, 4, 0, 8, 2}), 50);
    EXPECT_EQ(rate(run, {Phase::generate, 4, 0, 8, 1}), 0) << "other groups";
    EXPECT_THAT(run.unmatched({}), ElementsAre("pp16 @ d5", "tg4 @ b8 g2"));
  }
}

TEST(ComparedRuns, SaysWhatDiffers) {
  const ComparedRun run = read_text(own);
  const Workload works[] = {{Phase::prompt, 16, 5}, {Phase::prompt, 99}};
  EXPECT_EQ(run.differences(works, 4, "AMD EPYC"), "");
  EXPECT_EQ(run.differences(works, 1, "AMD EPYC"), "compares 1 thread with 4");
  EXPECT_EQ(run.differences(works, 4, "Intel"), "compares Intel with AMD EPYC");
  EXPECT_EQ(run.differences(works, 2, "Intel"), "compares 2 threads with 4, Intel with AMD EPYC");
  EXPECT_EQ(run.differences({}, 2, "Intel"), "") << "of what is not compared";

  const auto threads_and = [](const std::string& machine) {
    return read_text(R"({"n_prompt": 1, "n_gen": 0, "n_threads": 2, "avg_ts": 3, )" + machine + "}")
        .differences(std::vector<Workload>{{Phase::prompt, 1}}, 2, "AMD EPYC");
  };
  EXPECT_EQ(threads_and(R"("cpu_info": "CPU", "gpu_info": "")"), "") << "a processor without a name";
  EXPECT_EQ(threads_and(R"("cpu_info": "AMD EPYC", "gpu_info": "H200")"),
            "compares AMD EPYC with AMD EPYC with H200");
  EXPECT_EQ(threads_and(R"("cpu_info": "\u001b[2JX\n")"), "compares AMD EPYC with [2JX");
}

TEST(ComparedRuns, RefusesWhatIsNoBenchmark) {
  const std::pair<std::string, const char*> wrong[] = {
      {"", "nothing in it"},
      {" \n\t", "nothing in it"},
      {"[]", "no test in it"},
      {R"({"tests": []})", "no test in it"},
      {"| model | size |\n", "not valid JSON"},
      {"[{\"n_prompt\": 1", "not valid JSON"},
      {"{\"n_prompt\": 1, \"n_gen\": 0, \"avg_ts\": 1}\n{\"n_pro", "speed.json, line 2: not valid JSON"},
      {"3", "the content is 3, expected an object"},
      {"[3]", "field '[0]' is 3, expected an object"},
      {"{}", "an object of no fields, not of a test"},
      {R"({"a": 1, "b": 2})", "an object of the fields a, b, not of a test"},
      {R"([{"n_prompt": 1, "n_gen": 0}])", "field '[0].avg_ts' is missing"},
      {R"([{"n_prompt": 1, "n_gen": 0, "avg_ts": "9"}])", "field '[0].avg_ts' is \"9\", expected a number"},
      {R"([{"n_prompt": 1, "n_gen": 0, "avg_ts": 0}])", "field '[0].avg_ts' is 0, expected tokens a second"},
      {R"([{"n_prompt": 1, "n_gen": 0, "samples_ts": ["a"]}])", "samples_ts' holds string"},
      {R"([{"n_prompt": -1, "n_gen": 0, "avg_ts": 1}])", "expected a whole number from 0"},
      {R"([{"n_prompt": 0, "n_gen": 0, "avg_ts": 1}])", "both 0"},
      {R"({"pp": 1, "tg": 0, "pl": 1, "speed_pp": nan})", "field 'speed_pp' is 0"},
      {R"({"tests": [{"phase": "train"}]})", "field 'tests[0].phase' is \"train\", expected"},
      {R"([{"n_prompt": 1, "n_gen": 0, "avg_ts": 1}, {"tests": []}])", "tests of llama.cpp and of fathom"}};
  for (const auto& [text, message] : wrong) {
    try {
      read_text(text);
      ADD_FAILURE() << text;
    } catch (const Error& e) {
      EXPECT_THAT(e.what(),
                  AllOf(HasSubstr("speed.json"), HasSubstr(message), HasSubstr("llama-bench -o json")))
          << text;
    }
  }
  EXPECT_THROW(read_compared_run("/no/such/file"), Error);
  EXPECT_THROW(read_compared_run(data), Error);
}

TEST(ComparedRuns, SurviveDamage) {
  const test::Scratch scratch;
  const auto path = scratch / "speed.json";
  const auto load = [&] {
    const ComparedRun run = read_compared_run(path);
    const Workload work{Phase::prompt, 16};
    run.beside(work, 1);
    run.unmatched({&work, 1});
    run.differences({&work, 1}, 2, "here");
  };
  for (const std::string& text : {read_file(data / "llama_bench.json"), read_file(data / "llama_bench.jsonl"),
                                  read_file(data / "llama_batched_bench.jsonl"), std::string(own)})
    EXPECT_GT(test::expect_survives_damage(path, text, 300, load), 0);
  test::expect_survives_truncation(path, read_file(data / "llama_bench.json"), load);
}

}  // namespace
}  // namespace fathom
