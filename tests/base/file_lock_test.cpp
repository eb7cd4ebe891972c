#include "base/file_lock.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/wait.h>
#include <unistd.h>

#include <atomic>
#include <chrono>
#include <thread>
#include <vector>

#include "base/file.h"
#include "base/json.h"
#include "base/progress.h"
#include "scratch.h"

namespace fathom {
namespace {

namespace fs = std::filesystem;
using namespace std::chrono_literals;
using testing::HasSubstr;
using testing::StartsWith;

/// What a process on another machine has left in the file, or is about to.
void write_foreign(const fs::path& path) {
  const Json words = {
      {"process", "7"}, {"machine", "tuna"}, {"since", "2026-05-01 14:03 UTC"}, {"boot", "another"}};
  write_file(path, words.dump());
}

TEST(FileLock, IsOnesAtATimeAndSaysWhose) {
  const test::Scratch scratch;
  const fs::path path = scratch / "folder/lock";
  {
    const FileLock first(path);
    ASSERT_TRUE(first.held());
    for (int i = 0; i < 2; ++i) {
      const FileLock second(path);
      EXPECT_FALSE(second.held());
      EXPECT_THAT(second.holder(), StartsWith("process " + std::to_string(::getpid()) + " on "));
      EXPECT_THAT(second.holder(), HasSubstr(" since 20"));
    }
    EXPECT_TRUE(fs::exists(path));
  }
  EXPECT_FALSE(fs::exists(path));
  EXPECT_TRUE(FileLock(path).held());
}

TEST(FileLock, WhatAProcessThatDiedLeftIsTakenOver) {
  const test::Scratch scratch;
  const fs::path path = scratch / "lock";
  const pid_t child = ::fork();
  if (child == 0) {
    auto* const lock = new FileLock(path);
    ::_exit(lock->held() ? 0 : 1);  // without its destructor, as if it were killed
  }
  int status = 0;
  ASSERT_EQ(::waitpid(child, &status, 0), child);
  ASSERT_EQ(status, 0);
  ASSERT_TRUE(fs::exists(path));
  const FileLock lock(path);
  EXPECT_TRUE(lock.held());
  EXPECT_EQ(read_json(path)["process"], std::to_string(::getpid()));
}

TEST(FileLock, AnotherMachinesHoldsWhileItGivesSigns) {
  const test::Scratch scratch;
  set_quiet(true);
  const fs::path path = scratch / "lock";
  write_foreign(path);
  std::atomic<bool> ended = false;
  std::thread holder([&] {
    while (!ended) {
      fs::last_write_time(path, fs::file_time_type::clock::now());
      std::this_thread::sleep_for(20ms);
    }
  });
  const FileLock lock(path);
  ended = true;
  holder.join();
  EXPECT_FALSE(lock.held());
  EXPECT_EQ(lock.holder(), "process 7 on tuna since 2026-05-01 14:03 UTC");
  EXPECT_EQ(read_json(path)["machine"], "tuna");
}

TEST(FileLock, AnotherMachinesThatHasLongBeenSilentIsTakenOver) {
  const test::Scratch scratch;
  const fs::path path = scratch / "lock";
  write_foreign(path);
  fs::last_write_time(path, fs::file_time_type::clock::now() - 13h);
  EXPECT_TRUE(FileLock(path).held());
}

TEST(FileLock, AnyContentIsTakenOver) {
  const test::Scratch scratch;
  const fs::path path = scratch / "lock";
  for (const char* content : {"", "{", "[1]", "{\"boot\": 5}", "\xff\xff"}) {
    write_file(path, content);
    EXPECT_TRUE(FileLock(path).held()) << content;
  }
}

TEST(FileLock, NeverTwoHaveItThoughItsFileComesAndGoes) {
  const test::Scratch scratch;
  std::atomic<int> inside = 0, most = 0, times = 0;
  std::vector<std::thread> threads;
  for (int t = 0; t < 4; ++t) {
    threads.emplace_back([&] {
      for (int i = 0; i < 50; ++i) {
        const auto lock = wait_for_lock(scratch / "lock");
        most = std::max(most.load(), ++inside);
        ++times;
        --inside;
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(most, 1);
  EXPECT_EQ(times, 200);
}

}  // namespace
}  // namespace fathom
