#include "base/threads.h"

#include <sched.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <exception>
#include <memory>
#include <mutex>
#include <thread>
#include <vector>

#include "base/error.h"

namespace fathom {

// What of a Background's tasks has begun, and which are done.
struct detail::Tasks {
  explicit Tasks(std::vector<std::function<void()>> list) : all(std::move(list)), done(all.size()) {}

  // Does those of the first `count` that nobody has begun.
  void work(std::size_t count) {
    for (std::size_t i = next; i < count;) {
      if (!next.compare_exchange_weak(i, i + 1)) continue;
      all[i]();
      done[i].store(true, std::memory_order_release);
      done[i].notify_all();
      i = next;
    }
  }

  std::vector<std::function<void()>> all;
  std::atomic<std::size_t> next = 0;
  std::vector<std::atomic<bool>> done;
};

namespace {

int available_cores() {
  cpu_set_t set;
  if (::sched_getaffinity(0, sizeof set, &set) == 0) return std::max(1, CPU_COUNT(&set));
  return std::max(1, static_cast<int>(std::thread::hardware_concurrency()));
}

// Spins for some 200 us (a pause takes about 50 ns), then sleeps in the kernel until `value` has changed.
// With 50 us a prompt of 512 saw 27 context switches, when one core was a little slower than the other in a
// long product, and waking up takes as long again: 4 to 7 % of the time. Two of Fathom's side by side lose 2
// % by the longer wait.
void wait_while(const std::atomic<int>& value, int old) {
  for (int i = 0; i < 4000; ++i) {
    if (value.load(std::memory_order_acquire) != old) return;
#if defined(__x86_64__)
    __builtin_ia32_pause();
#endif
  }
  value.wait(old, std::memory_order_acquire);
}

thread_local bool inside = false;

// A body's parts, one a thread. Each worker has its own part, but whoever is done first takes a part that
// nobody has begun: a worker that sleeps, or whose core another process has, is not waited for.
class Pool {
 public:
  explicit Pool(int threads) : parts_(static_cast<std::size_t>(threads)) {
    for (int thread = 1; thread < threads; ++thread) workers_.emplace_back([this, thread] { serve(thread); });
  }
  ~Pool() {
    ended_ = true;
    release();
  }
  Pool(const Pool&) = delete;
  Pool& operator=(const Pool&) = delete;

  int threads() const { return static_cast<int>(parts_.size()); }

  // Gives half of the threads these to do, before anything else; or nothing any more.
  void set_background(std::shared_ptr<detail::Tasks> tasks) {
    {
      const std::lock_guard lock(background_in_use_);
      has_background_ = tasks != nullptr;
      background_ = std::move(tasks);
    }
    release();
  }

  void run(detail::ThreadBody body, void* context) {
    body_ = body;
    context_ = context;
    left_.store(threads(), std::memory_order_relaxed);
    for (Part& part : parts_) part.free.store(true, std::memory_order_release);
    release();
    run_parts(0);
    for (int left = left_.load(std::memory_order_acquire); left != 0;
         left = left_.load(std::memory_order_acquire))
      wait_while(left_, left);
  }

 private:
  struct alignas(64) Part {
    std::atomic<bool> free = false;
  };

  void release() {
    generation_.fetch_add(1, std::memory_order_release);
    generation_.notify_all();
  }

  // The thread's own part, then those that nobody has begun.
  void run_parts(int own) {
    for (int i = 0; i < threads(); ++i) {
      const int part = (own + i) % threads();
      if (!parts_[static_cast<std::size_t>(part)].free.exchange(false, std::memory_order_acq_rel)) continue;
      body_.load(std::memory_order_relaxed)(context_, part, threads());
      if (left_.fetch_sub(1, std::memory_order_acq_rel) == 1) left_.notify_one();
    }
  }

  void serve(int thread) {
    inside = true;
    for (int seen = 0;;) {
      wait_while(generation_, seen);
      seen = generation_.load(std::memory_order_acquire);
      if (has_background_ && thread >= threads() - threads() / 2) {
        if (const auto tasks = background()) tasks->work(tasks->all.size());
      }
      if (ended_) return;
      run_parts(thread);
    }
  }

  std::shared_ptr<detail::Tasks> background() {
    const std::lock_guard lock(background_in_use_);
    return background_;
  }

  std::vector<Part> parts_;
  std::atomic<detail::ThreadBody> body_ = nullptr;
  void* context_ = nullptr;
  alignas(64) std::atomic<int> generation_ = 0;  // apart, so that one side's writes do not slow the other's
  std::atomic<bool> ended_ = false;
  std::atomic<bool> has_background_ = false;  // mostly there is none: then no body costs a lock
  std::mutex background_in_use_;
  std::shared_ptr<detail::Tasks> background_;
  alignas(64) std::atomic<int> left_ = 0;  // parts that are not done
  std::vector<std::jthread> workers_;      // last: they end before what they use
};

struct {
  std::mutex in_use;
  int wanted = 0;  // 0: all cores
  std::unique_ptr<Pool> pool;
} shared;

// Of as many threads as are wanted now; `shared.in_use` must be held.
Pool& shared_pool(int threads) {
  if (!shared.pool || shared.pool->threads() != threads) {
    shared.pool.reset();
    shared.pool = std::make_unique<Pool>(threads);
  }
  return *shared.pool;
}

}  // namespace

void set_threads(int count) {
  if (count < 0 || count > 4096) fail_usage("--threads is {}, expected 0 (all cores) to 4096", count);
  const std::lock_guard lock(shared.in_use);
  shared.wanted = count;
}

int thread_count() {
  static const int cores = available_cores();
  return shared.wanted > 0 ? shared.wanted : cores;
}

void detail::on_each_thread(ThreadBody body, void* context) {
  const int threads = thread_count();
  if (inside || threads == 1) return body(context, 0, 1);
  const std::unique_lock lock(shared.in_use, std::try_to_lock);
  if (!lock) return body(context, 0, 1);
  Pool& pool = shared_pool(threads);
  inside = true;
  pool.run(body, context);
  inside = false;
}

void Background::begin(std::vector<std::function<void()>> tasks) {
  finish();
  tasks_ = std::make_shared<detail::Tasks>(std::move(tasks));
  const std::lock_guard lock(shared.in_use);
  if (thread_count() > 1) shared_pool(thread_count()).set_background(tasks_);
}

void Background::finish(std::size_t count) {
  if (!tasks_) return;
  if (tasks_->next < count) on_each_thread([&](int, int) { tasks_->work(count); });
  for (std::size_t i = 0; i < count; ++i) tasks_->done[i].wait(false, std::memory_order_acquire);
}

void Background::finish() {
  if (!tasks_) return;
  finish(tasks_->all.size());
  tasks_.reset();
  const std::lock_guard lock(shared.in_use);
  if (shared.pool) shared.pool->set_background(nullptr);
}

void parallel_for(std::int64_t count, const std::function<void(std::int64_t)>& body) {
  std::exception_ptr first;
  std::mutex mutex;
  on_each_thread([&](int thread, int threads) {
    try {
      for (std::int64_t i = count * thread / threads; i < count * (thread + 1) / threads; ++i) body(i);
    } catch (...) {
      const std::lock_guard lock(mutex);
      if (!first) first = std::current_exception();
    }
  });
  if (first) std::rethrow_exception(first);
}

}  // namespace fathom
