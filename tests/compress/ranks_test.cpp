// `fathom train` as several processes on one machine.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <sstream>

#include "base/file.h"
#include "free_port.h"
#include "training.h"

namespace fathom {
namespace {

namespace fs = std::filesystem;
using test::Folder;
using test::free_port;
using test::run_program;
using testing::AllOf;
using testing::HasSubstr;

/// The program as several ranks, each started as a shell loop would.
class Processes {
 public:
  Processes(const std::string& arguments, int ranks) {
    const int port = free_port();
    for (int rank = 0; rank < ranks; ++rank) {
      const std::string command = "RANK=" + std::to_string(rank) + " WORLD_SIZE=" + std::to_string(ranks) +
                                  " MASTER_ADDR=127.0.0.1 MASTER_PORT=" + std::to_string(port) +
                                  " exec " FATHOM_PROGRAM " " + arguments + " >" + log(rank, "out") + " 2>" +
                                  log(rank, "err");
      const char* const shell[] = {"sh", "-c", command.c_str(), nullptr};
      pids_.push_back(0);
      EXPECT_EQ(
          ::posix_spawn(&pids_.back(), "/bin/sh", nullptr, nullptr, const_cast<char* const*>(shell), environ),
          0);
    }
  }
  ~Processes() {
    for (int rank = 0; rank < static_cast<int>(pids_.size()); ++rank) {
      if (pids_[static_cast<std::size_t>(rank)] == 0) continue;
      signal(rank, SIGKILL);
      code(rank);
    }
  }
  Processes(const Processes&) = delete;
  Processes& operator=(const Processes&) = delete;

  void signal(int rank, int number) { ::kill(pids_[static_cast<std::size_t>(rank)], number); }

  /// Exit code once it has ended, -1 for a death by a signal, -2 after two minutes.
  int code(int rank) {
    pid_t& pid = pids_[static_cast<std::size_t>(rank)];
    int status = 0;
    for (int tries = 0; ::waitpid(pid, &status, WNOHANG) == 0; ++tries) {
      if (tries == 12'000) return -2;
      std::this_thread::sleep_for(std::chrono::milliseconds(10));
    }
    pid = 0;
    return WIFEXITED(status) ? WEXITSTATUS(status) : -1;
  }
  std::vector<int> codes() {
    std::vector<int> result;
    for (int rank = 0; rank < static_cast<int>(pids_.size()); ++rank) result.push_back(code(rank));
    return result;
  }
  std::string out(int rank) const { return read_file(log(rank, "out")); }
  std::string err(int rank) const { return read_file(log(rank, "err")); }

 private:
  std::string log(int rank, const std::string& ending) const {
    return (scratch_ / (std::to_string(rank) + "." + ending)).string();
  }

  test::Scratch scratch_;
  std::vector<pid_t> pids_;
};

std::vector<Json> metrics(const fs::path& run) {
  std::vector<Json> result;
  const fs::path file = run / "metrics.jsonl";
  std::istringstream lines(fs::exists(file) ? read_file(file) : "");
  for (std::string line; std::getline(lines, line);) {
    Json json = Json::parse(line, nullptr, false);
    if (!json.is_discarded()) result.push_back(std::move(json));
  }
  return result;
}

void wait_for_steps(const fs::path& run, std::size_t steps) {
  for (int tries = 0; metrics(run).size() < steps && tries < 12'000; ++tries) {
    std::this_thread::sleep_for(std::chrono::milliseconds(5));
  }
}

/// Float32 sums in another order: a step's mean over some hundred tokens differs in its last bits.
void expect_same_curve(const fs::path& run, const fs::path& expected) {
  const auto curve = metrics(run), other = metrics(expected);
  ASSERT_EQ(curve.size(), other.size());
  for (std::size_t i = 0; i < curve.size(); ++i) {
    for (const char* key : {"loss", "gradient_norm"}) {
      const double value = other[i][key];
      EXPECT_NEAR(curve[i][key].get<double>(), value, 1e-5 * value) << key << " of step " << i + 1;
    }
  }
}

/// Seven sequences a step, which no number of ranks above 1 divides.
std::string arguments(const Folder& folder, const std::string& model, const std::string& out, int steps,
                      const std::string& more = "") {
  return "train " + model +
         " --threads 1 --no-bf16 --context 32 --batch-tokens 224 --micro-batch 2 --tokens " +
         std::to_string(224 * steps) + " --text " + folder.text() + " --out " + (folder / out).string() +
         " " + more;
}

TEST(RanksVerb, TheCurveIsTheSameOnAnyNumberOfRanks) {
  const Folder folder;
  // Tied layers with adapters, whose gradients come from several visits.
  const std::string tied = (folder / "tied").string();
  ASSERT_EQ(run_program("recur " + test::model +
                        " --threads 1 --loops 3 --share cycle --init average --rank 2 --out " + tied)
                .code,
            0);
  const std::string more = "--eval-every 3 --eval-text " + folder.text();
  for (const int ranks : {1, 2, 4}) {
    Processes all(arguments(folder, tied, "on" + std::to_string(ranks), 6, more), ranks);
    for (int rank = 0; rank < ranks; ++rank) {
      EXPECT_EQ(all.code(rank), 0) << all.err(rank);
      EXPECT_EQ(all.out(rank).empty(), rank > 0);  // rank 0 speaks for all
      if (rank > 0) {
        EXPECT_EQ(all.err(rank), "");
      }
    }
  }
  const auto evaluation = [&](const char* run) {
    const std::string lines = read_file(folder / run / "evaluations.jsonl");
    return parse_json(lines.substr(0, lines.find('\n')), run)["loss"].get<double>();
  };
  for (const char* run : {"on2.run", "on4.run"}) {
    expect_same_curve(folder / run, folder / "on1.run");
    EXPECT_NEAR(evaluation(run), evaluation("on1.run"), 1e-5);
  }
  Processes sharing(arguments(folder, tied, "shared", 6, more + " --shard-optimiser"), 2);
  EXPECT_THAT(sharing.codes(), testing::Each(0));
  EXPECT_EQ(read_file(folder / "shared" / "model.safetensors"),
            read_file(folder / "on2" / "model.safetensors"));
}

TEST(RanksVerb, SoItIsWithExitsLayerDropoutAndLayersComputedAgain) {
  const Folder folder;
  const std::string depth = "--exits all --exit-curriculum rotational --exit-rotation 2 --layer-dropout 0.6";
  ASSERT_EQ(run_program(arguments(folder, test::model, "alone", 5, depth)).code, 0);
  Processes all(arguments(folder, test::model, "on3", 5, depth + " --gradient-checkpointing"), 3);
  for (int rank = 0; rank < 3; ++rank) EXPECT_EQ(all.code(rank), 0) << all.err(rank);
  expect_same_curve(folder / "on3.run", folder / "alone.run");
}

TEST(RanksVerb, AKilledRankEndsTheOthersAndAnyNumberGoesOn) {
  const Folder folder;
  constexpr int steps = 150;
  const std::string more = "--checkpoint-every 5 --shard-optimiser --rank-timeout 2";
  const fs::path run = folder / "killed.run";
  {
    Processes all(arguments(folder, test::model, "killed", steps, more), 3);
    wait_for_steps(run, 7);
    all.signal(1, SIGKILL);
    EXPECT_EQ(all.code(1), -1) << "ended before the kill";
    for (const int rank : {0, 2}) {
      EXPECT_EQ(all.code(rank), 1);
      EXPECT_THAT(all.err(rank), AllOf(HasSubstr("rank 1 is gone (of 3 ranks): waited for "),
                                       HasSubstr("--resume " + run.string())));
    }
  }
  EXPECT_FALSE(fs::exists(folder / "killed"));
  const test::Run alone = run_program("train --resume " + run.string());
  EXPECT_EQ(alone.code, 0) << alone.err;
  ASSERT_EQ(run_program(arguments(folder, test::model, "whole", steps)).code, 0);
  expect_same_curve(run, folder / "whole.run");
}

TEST(RanksVerb, InterruptedAndResumedOnAsManyItIsTheSameToTheLastBit) {
  const Folder folder;
  constexpr int steps = 100;
  const fs::path run = folder / "stopped.run";
  {
    Processes all(arguments(folder, test::model, "stopped", steps, "--shard-optimiser"), 2);
    wait_for_steps(run, 5);
    all.signal(1, SIGINT);  // to one of them: all stop after the same step
    EXPECT_THAT(all.codes(), testing::Each(130));
    EXPECT_THAT(all.err(0), HasSubstr("Stopped after "));
  }
  Processes resumed("train --resume " + run.string(), 2);
  Processes whole(arguments(folder, test::model, "whole", steps), 2);
  EXPECT_THAT(resumed.codes(), testing::Each(0)) << resumed.err(0);
  EXPECT_THAT(whole.codes(), testing::Each(0)) << whole.err(0);
  EXPECT_EQ(read_file(folder / "stopped" / "model.safetensors"),
            read_file(folder / "whole" / "model.safetensors"));
}

TEST(RanksVerb, ARankThatStandsStillIsNoticed) {
  const Folder folder;
  for (const int still : {0, 1}) {  // rank 0 keeps what the others meet at
    const std::string out = "still" + std::to_string(still);
    Processes all(arguments(folder, test::model, out, 100'000, "--rank-timeout 1"), 2);
    wait_for_steps(folder / (out + ".run"), 3);
    all.signal(still, SIGSTOP);
    EXPECT_EQ(all.code(1 - still), 1);
    EXPECT_THAT(all.err(1 - still), HasSubstr("rank " + std::to_string(still) + " is gone"));
  }
}

TEST(RanksVerb, WhatIsWrongWithTheirNumberIsSaidBeforeAnyWork) {
  const Folder folder;
  const test::Run half =
      test::run_shell("RANK=0 " FATHOM_PROGRAM " " + arguments(folder, test::model, "out", 1));
  EXPECT_EQ(half.code, 2);
  EXPECT_THAT(half.err, HasSubstr("has RANK but no WORLD_SIZE"));
  const std::string absent =
      "RANK=0 WORLD_SIZE=2 MASTER_ADDR=127.0.0.1 MASTER_PORT=" + std::to_string(free_port());
  const test::Run alone = test::run_shell(absent + " " FATHOM_PROGRAM " " +
                                          arguments(folder, test::model, "out", 1, "--rank-timeout 0.5"));
  EXPECT_EQ(alone.code, 1);
  EXPECT_THAT(alone.err, HasSubstr("of 2 ranks these have not come within 0.5 s: 1"));
  Processes many("train " + test::model + " --threads 1 --batch-tokens 32 --context 32 --text " +
                     folder.text() + " --out " + (folder / "out").string(),
                 2);
  EXPECT_THAT(many.codes(), testing::Each(2));
  EXPECT_THAT(many.err(0), HasSubstr("too few for 2 ranks"));
}

}  // namespace
}  // namespace fathom
