// The verbs that train, as a user runs them.
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <signal.h>
#include <spawn.h>
#include <sys/wait.h>
#include <unistd.h>

#include <chrono>
#include <fstream>
#include <regex>
#include <thread>
#include <vector>

#include "base/file.h"
#include "base/json.h"
#include "program.h"

namespace fathom {
namespace {

namespace fs = std::filesystem;
using test::json_of;
using test::run_program;
using testing::HasSubstr;

const std::string model = FATHOM_TEST_DATA "/models/llama-text";

/// A scratch folder with some text.
struct Folder : test::Scratch {
  Folder() {
    std::ofstream text(*this / "a.txt");
    for (int i = 0; i < 300; ++i) text << "Sentence number " << i * 37 % 100 << " of the text. ";
  }
  std::string text() const { return (*this / "a.txt").string(); }
  std::vector<std::string> names() const {
    std::vector<std::string> names;
    for (const auto& entry : fs::directory_iterator(path()))
      names.push_back(entry.path().filename().string());
    std::sort(names.begin(), names.end());
    return names;
  }
};

std::string train_arguments(const Folder& folder, const std::string& out, int steps) {
  return "train " + model + " --threads 1 --context 32 --batch-tokens 64 --tokens " +
         std::to_string(64 * steps) + " --text " + folder.text() + " --out " + (folder / out).string();
}

TEST(TrainVerb, WritesAModelAndItsMetrics) {
  const Folder folder;
  const Json json = json_of(run_program(train_arguments(folder, "out", 6) + " --json -"));
  EXPECT_EQ(json["steps"], 6);
  EXPECT_EQ(json["tokens"], 384);
  EXPECT_EQ(run_program("generate " + (folder / "out").string() + " --prompt a --max-tokens 2").code, 0);
  const std::string metrics = read_file(folder / "out.run" / "metrics.jsonl");
  EXPECT_EQ(std::count(metrics.begin(), metrics.end(), '\n'), 6);
  EXPECT_THAT(folder.names(), testing::ElementsAre("a.txt", "out", "out.run"));
  const test::Run again = run_program(train_arguments(folder, "out", 6));
  EXPECT_EQ(again.code, 1);
  EXPECT_THAT(again.err, HasSubstr((folder / "out").string()));
}

TEST(TrainVerb, ASlashAtTheEndOfOutChangesNothing) {
  const Folder folder;
  EXPECT_EQ(run_program(train_arguments(folder, "out/", 2)).code, 0);
  EXPECT_THAT(folder.names(), testing::ElementsAre("a.txt", "out", "out.run"));
}

/// Starts the program, waits until `ready`, sends SIGINT and returns the exit code.
int interrupted_code(const std::string& arguments, const std::function<bool()>& ready) {
  const std::string command = "exec " FATHOM_PROGRAM " " + arguments + " >/dev/null 2>&1";
  const char* const shell[] = {"sh", "-c", command.c_str(), nullptr};
  pid_t child = 0;
  if (::posix_spawn(&child, "/bin/sh", nullptr, nullptr, const_cast<char* const*>(shell), environ) != 0)
    return -1;
  int status = 0;
  while (!ready() && ::waitpid(child, &status, WNOHANG) == 0)
    std::this_thread::sleep_for(std::chrono::milliseconds(5));
  ::kill(child, SIGINT);
  ::waitpid(child, &status, 0);
  return WIFEXITED(status) ? WEXITSTATUS(status) : -1;
}

TEST(TrainVerb, GoesOnAfterAnInterruptAsIfThereHadBeenNone) {
  const Folder folder;
  const auto metrics = folder / "stopped.run" / "metrics.jsonl";
  const auto lines = [&](const fs::path& path) {
    std::vector<std::string> losses;
    std::ifstream file(path);
    for (std::string line; std::getline(file, line);) {
      const Json json = Json::parse(line, nullptr, false);
      if (!json.is_discarded()) losses.push_back(json["loss"].dump());
    }
    return losses;
  };
  constexpr int steps = 120;  // a second or more
  const std::string arguments = train_arguments(folder, "stopped", steps);
  EXPECT_EQ(interrupted_code(arguments, [&] { return lines(metrics).size() >= 3; }), 130);
  const std::size_t done = lines(metrics).size();
  ASSERT_LT(done, static_cast<std::size_t>(steps)) << "the interrupt came too late to show anything";
  EXPECT_FALSE(fs::exists(folder / "stopped"));
  EXPECT_EQ(std::distance(fs::directory_iterator(folder / "stopped.run" / "checkpoints"), {}), 1);
  const test::Run anew = run_program(arguments);
  EXPECT_EQ(anew.code, 1);
  EXPECT_THAT(anew.err, HasSubstr("--resume"));

  ASSERT_EQ(run_program(arguments + " --resume").code, 0);
  ASSERT_EQ(run_program(train_arguments(folder, "whole", steps)).code, 0);
  EXPECT_EQ(lines(metrics), lines(folder / "whole.run" / "metrics.jsonl"));
  EXPECT_EQ(read_file(folder / "stopped" / "model.safetensors"),
            read_file(folder / "whole" / "model.safetensors"));
  EXPECT_THAT(folder.names(), testing::ElementsAre("a.txt", "stopped", "stopped.run", "whole", "whole.run"));
}

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
    EXPECT_LE(candidate["trained"]["non_embedding"].get<double>(), 0.8 * static_cast<double>(full));
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

TEST(CompressVerb, AnInterruptLeavesNothingButSamples) {
  const Folder folder;
  const auto metrics = folder / "out.work" / "run" / "metrics.jsonl";
  const std::string arguments = "compress " + model + " --threads 1 --minutes 5 --method prune --text " +
                                folder.text() + " --out " + (folder / "out").string();
  EXPECT_EQ(interrupted_code(arguments, [&] { return fs::exists(metrics); }), 130);
  EXPECT_THAT(folder.names(), testing::ElementsAre("a.txt"));
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
