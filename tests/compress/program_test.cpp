// The main job, as a user runs it.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <regex>

#include "base/file.h"
#include "base/file_lock.h"
#include "base/json.h"
#include "training.h"

namespace fathom {
namespace {

namespace fs = std::filesystem;
using test::Folder;
using test::interrupted_code;
using test::json_of;
using test::model;
using test::run_program;
using testing::HasSubstr;

void expect_self_contained(const std::string& html) {
  EXPECT_THAT(html, HasSubstr("<svg"));
  EXPECT_THAT(html, HasSubstr("<table"));
  const std::regex resource(R"((src|href|xlink:href)\s*=|@import|url\()");
  std::smatch found;
  EXPECT_FALSE(std::regex_search(html, found, resource)) << found.str();
}

TEST(CompressVerb, WritesModelsAccountAndReport) {
  const Folder folder;
  const auto out = folder / "out";
  const test::Run run = run_program("compress " + model + " --threads 1 --minutes 0.02 --target 0.8 --text " +
                                    folder.text() + " --out " + out.string() + "/");
  ASSERT_EQ(run.code, 0) << run.err;
  EXPECT_THAT(run.out, HasSubstr("original"));
  EXPECT_THAT(run.out, HasSubstr("Kept: "));
  EXPECT_THAT(run.out, HasSubstr("report.html"));
  EXPECT_THAT(folder.names(), testing::ElementsAre("a.txt", "out"));  // no rubbish

  const Json account = read_json(out / "account.json");
  const auto full = account["before"]["non_embedding"].get<std::int64_t>();
  ASSERT_EQ(account["candidates"].size(), 2U);
  for (const Json& candidate : account["candidates"]) {
    EXPECT_LE(candidate["cut"]["non_embedding"].get<double>(), 0.8 * static_cast<double>(full));
    EXPECT_EQ(candidate["repaired"]["non_embedding"], candidate["cut"]["non_embedding"]);
    EXPECT_EQ(candidate.contains("trained"), candidate["behind"].get<double>() <= 0.1);
    if (!candidate.contains("trained")) continue;
    EXPECT_EQ(candidate["trained"]["non_embedding"], candidate["cut"]["non_embedding"]);
    EXPECT_FALSE(candidate["curve"].empty());
  }
  expect_self_contained(read_file(out / "report.html"));
  const Json inspected = json_of(run_program("inspect --json - " + out.string()));
  EXPECT_EQ(inspected["provenance"].back()["command"], "compress");
}

TEST(CompressVerb, WithoutATextTheModelWritesItsOwn) {
  const Folder folder;
  const std::string arguments = "compress " + model +
                                " --threads 1 --minutes 0.02 --target 0.7 --method prune --json - --out " +
                                (folder / "out").string();
  const Json account = json_of(run_program(arguments));
  EXPECT_EQ(account["chosen"], "prune");
  EXPECT_EQ(account["data"]["train"], "the original's own samples");
  EXPECT_THAT(folder.names(), testing::ElementsAre("a.txt", "out", "out.work"));
  EXPECT_EQ(run_program(arguments).code, 1);  // there is a model
  EXPECT_EQ(json_of(run_program(arguments + " --overwrite"))["chosen"], "prune");
}

TEST(CompressVerb, ProbesItsStepsAndJudgesOnADeviceOfTorch) {
  const Folder folder;
  // Fewer windows than the least that is judged by: all of them are, however slow the machine is.
  std::string judged;
  while (judged.size() < 900) judged += "The fox jumps over the lazy dog. ";
  write_file(folder / "judged.txt", judged);
  const auto account_on = [&](const std::string& device) {
    return json_of(run_program("compress " + model +
                               " --threads 1 --minutes 0.02 --target 0.8 --method prune --text " +
                               folder.text() + " --eval-text " + (folder / "judged.txt").string() +
                               " --json - --device " + device + " --out " + (folder / device).string()));
  };
  const Json torch = account_on("torch"), kernels = account_on("cpu");
  EXPECT_EQ(torch["machine"]["trained_on"], "torch on " + torch["machine"]["backend"].get<std::string>());
  EXPECT_EQ(kernels["machine"]["trained_on"], kernels["machine"]["backend"]);
  EXPECT_EQ(torch["before"]["tokens"], kernels["before"]["tokens"]);
  const double nll = kernels["before"]["nll"].get<double>();
  EXPECT_NEAR(torch["before"]["nll"].get<double>(), nll, 0.01 * nll);  // in bf16 and in float32
}

TEST(CompressVerb, AnInterruptLeavesNothingButSamples) {
  const Folder folder;
  const auto metrics = folder / "out.work" / "run" / "metrics.jsonl";
  const std::string arguments = "compress " + model + " --threads 1 --minutes 5 --method prune --text " +
                                folder.text() + " --out " + (folder / "out").string();
  EXPECT_EQ(interrupted_code(arguments, [&] { return fs::exists(metrics); }), 130);
  EXPECT_THAT(folder.names(), testing::ElementsAre("a.txt"));
}

TEST(CompressVerb, WorksInAFolderThatNoOtherWorksIn) {
  const Folder folder;
  const auto work = folder / "out.work";
  const FileLock other(work / "lock");
  const test::Run run = run_program("compress " + model + " --threads 1 --minutes 0.02 --target 0.8 --text " +
                                    folder.text() + " --out " + (folder / "out").string());
  EXPECT_EQ(run.code, 1);
  EXPECT_THAT(run.err, HasSubstr(work.string() + ": process " + std::to_string(::getpid()) + " on "));
  EXPECT_THAT(folder.names(), testing::ElementsAre("a.txt", "out.work"));
}

TEST(CompressVerb, WhatCannotBeIsToldFirst) {
  const Folder folder;
  const std::string arguments =
      "compress " + model + " --method prune --text " + folder.text() + " --out " + (folder / "out").string();
  for (const char* wrong : {" --target 1.5", " --minutes 0", " --method shrink", " --target 0.01"})
    EXPECT_EQ(run_program(arguments + wrong).code, 2) << wrong;
  const test::Run missing = run_program("compress " + model + " --method prune --text /no/such.txt --out " +
                                        (folder / "out").string());
  EXPECT_EQ(missing.code, 1);
  EXPECT_THAT(missing.err, HasSubstr("/no/such.txt"));
  EXPECT_THAT(folder.names(), testing::ElementsAre("a.txt"));
}

}  // namespace
}  // namespace fathom
