#include "base/threads.h"

#include <gtest/gtest.h>

#include <atomic>
#include <chrono>
#include <mutex>
#include <set>
#include <thread>
#include <vector>

#include "base/error.h"
#include "base/processor.h"

namespace fathom {
namespace {

/// Sets the number of threads for a test.
struct Threads {
  explicit Threads(int count) { set_threads(count); }
  ~Threads() { set_threads(0); }
  Threads(const Threads&) = delete;
  Threads& operator=(const Threads&) = delete;
};

TEST(Threads, EachTakesPartOnceWhateverTheirNumberIs) {
  for (const int count : {1, 2, 5, 3, 1}) {
    const Threads threads(count);
    for (int round = 0; round < 200; ++round) {
      std::vector<std::atomic<int>> calls(static_cast<std::size_t>(count));
      on_each_thread([&](int thread, int of) {
        EXPECT_EQ(of, count);
        calls[static_cast<std::size_t>(thread)]++;
      });
      for (const auto& call : calls) EXPECT_EQ(call, 1);
    }
  }
}

// Threads beyond the cores would take turns and wait for each other: their parts are run by as many threads
// as there are cores.
TEST(Threads, MoreThanTheCoresTakeNoLongerToMeet) {
  const Threads threads(16 * usable_cores());
  std::mutex mutex;
  std::set<std::thread::id> who;
  for (int round = 0; round < 200; ++round)
    on_each_thread([&](int, int) {
      const std::lock_guard lock(mutex);
      who.insert(std::this_thread::get_id());
    });
  EXPECT_LE(who.size(), static_cast<std::size_t>(usable_cores()));
}

TEST(Threads, WorkWithinWorkIsTheCallersAlone) {
  const Threads threads(3);
  std::atomic<int> inner = 0;
  on_each_thread([&](int, int) {
    on_each_thread([&](int thread, int of) {
      EXPECT_EQ(thread, 0);
      EXPECT_EQ(of, 1);
      inner++;
    });
  });
  EXPECT_EQ(inner, 3);
}

TEST(Threads, CallersOnSeveralThreadsDoNotWaitForEachOther) {
  const Threads threads(2);
  std::atomic<std::int64_t> sum = 0;
  std::vector<std::jthread> callers;
  for (int caller = 0; caller < 4; ++caller)
    callers.emplace_back([&] {
      for (int round = 0; round < 100; ++round) parallel_for(10, [&](std::int64_t i) { sum += i; });
    });
  callers.clear();
  EXPECT_EQ(sum, 4 * 100 * 45);
}

TEST(Threads, TheySleepAndWakeUp) {
  const Threads threads(2);
  std::atomic<int> calls = 0;
  for (int round = 0; round < 3; ++round) {
    std::this_thread::sleep_for(std::chrono::milliseconds(5));  // they spin for some 50 us
    on_each_thread([&](int, int) { calls++; });
  }
  EXPECT_EQ(calls, 6);
}

TEST(Threads, NumbersOutOfRangeAreWrongUsage) {
  EXPECT_THROW(set_threads(-1), UsageError);
  EXPECT_THROW(set_threads(5000), UsageError);
}

TEST(Threads, ParallelForVisitsEveryIndexAndRethrows) {
  std::vector<int> seen(101);
  parallel_for(101, [&](std::int64_t i) { seen[i]++; });
  EXPECT_EQ(seen, std::vector<int>(101, 1));
  EXPECT_THROW(parallel_for(7,
                            [](std::int64_t i) {
                              if (i == 3) fail("three");
                            }),
               Error);
}

TEST(Background, TasksAreDoneOnceBesideOtherWork) {
  for (const int count : {1, 2, 5}) {
    const Threads threads(count);
    Background background;
    for (int round = 0; round < 50; ++round) {
      constexpr std::size_t tasks = 40;
      std::vector<std::atomic<int>> calls(tasks);
      std::vector<std::function<void()>> list;
      for (auto& call : calls) list.emplace_back([&call] { parallel_for(3, [&](std::int64_t) { ++call; }); });
      background.begin(list);
      std::atomic<std::int64_t> sum = 0;
      for (std::size_t done = 0; done <= tasks; done += 8) {
        parallel_for(10, [&](std::int64_t i) { sum += i; });
        background.finish(done);
        for (std::size_t i = 0; i < done; ++i) ASSERT_EQ(calls[i], 3) << "task " << i << " of " << done;
      }
      EXPECT_EQ(sum, 6 * 45);
      if (round % 2 == 0) continue;  // the next ones come after what is left
      background.finish();
      background.finish();
    }
  }
}

TEST(Background, EndsWithItsTasksDone) {
  const Threads threads(3);
  std::atomic<int> calls = 0;
  {
    Background background;
    background.begin(std::vector<std::function<void()>>(20, [&] { ++calls; }));
    background.begin(std::vector<std::function<void()>>(20, [&] { ++calls; }));
    EXPECT_GE(calls, 20);
  }
  EXPECT_EQ(calls, 40);
}

// A body takes the part of a thread that is at work elsewhere, however long that takes.
TEST(Background, HoldsNoBodyUp) {
  const Threads threads(2);
  std::atomic<bool> may_end = false;
  Background background;
  background.begin({[&] { may_end.wait(false); }});
  std::atomic<int> parts = 0;
  for (int round = 0; round < 10; ++round) on_each_thread([&](int, int) { ++parts; });
  EXPECT_EQ(parts, 20);
  may_end = true;
  may_end.notify_all();
}

}  // namespace
}  // namespace fathom
