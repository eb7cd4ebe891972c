#include "base/threads.h"

#include <algorithm>
#include <atomic>
#include <cstdint>
#include <exception>
#include <memory>
#include <mutex>
#include <thread>
#include <vector>

#include "base/error.h"
#include "base/processor.h"

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

// Spins for some 200 us (a pause takes about 50 ns), then sleeps in the kernel until `value` has changed.
// With 50 us a prompt of 512 saw 27 context switches, when one core was a little slower than the other in a
// long product, and waking up takes as long again: 4 to 7 % of the time. Two of Fathom's side by side lose 2
// % by the longer wait.
constexpr int patience = 4000;
// Pauses, 2 us, after which a part that its own thread has not begun is taken over: that thread sleeps, or
// its core is another process's.
constexpr int part_patience = 40;

// Whether `value` has changed within `pauses`.
bool changes(const std::atomic<std::uint32_t>& value, std::uint32_t old, int pauses) {
  for (int i = 0; i < pauses; ++i) {
    if (value.load(std::memory_order_acquire) != old) return true;
#if defined(__x86_64__)
    __builtin_ia32_pause();
#endif
  }
  return false;
}

void wait_while(const std::atomic<std::uint32_t>& value, std::uint32_t old) {
  if (!changes(value, old, patience)) value.wait(old, std::memory_order_acquire);
}

thread_local bool inside = false;

// A body's parts. Each thread has its own part; those that are more than the cores have none.
//
// With many cores the time between two bodies is that of lines of the cache on their way from core to core,
// some 100 ns each. So a thread that begins reads one line that has changed (`Job`), its claim is in a line
// that nobody else touches unless it is late, and that it has ended it says in a line that the caller alone
// reads: the lines of all threads are on their way at the same time. One counter of parts that are left, and
// free parts looked for at once, cost 16 threads more than a hundred such ways one after the other.
class Pool {
 public:
  explicit Pool(int parts)
      : parts_(static_cast<std::size_t>(parts)), threads_(std::min(parts, usable_cores())) {
    for (int thread = 1; thread < threads_; ++thread)
      workers_.emplace_back([this, thread] { serve(thread); });
  }
  ~Pool() {
    job_.ended = true;
    wake();
  }
  Pool(const Pool&) = delete;
  Pool& operator=(const Pool&) = delete;

  int parts() const { return static_cast<int>(parts_.size()); }

  // Gives half of the threads these to do, before anything else; or nothing any more.
  void set_background(std::shared_ptr<detail::Tasks> tasks) {
    {
      const std::lock_guard lock(background_in_use_);
      job_.has_background = tasks != nullptr;
      background_ = std::move(tasks);
    }
    wake();
  }

  void run(detail::ThreadBody body, void* context) {
    job_.body.store(body, std::memory_order_relaxed);
    job_.context.store(context, std::memory_order_relaxed);
    const std::uint32_t number = job_.number.load(std::memory_order_relaxed) + 1;
    job_.number.store(number, std::memory_order_release);
    wake();
    run_own(0, number);
    bool helped = false;
    const int pauses = job_.has_background ? 0 : part_patience;  // those threads are known to be busy
    for (Part& part : parts_) {
      if (!helped && !changes(part.done, number - 1, pauses)) {
        help(number);
        helped = true;
      }
      wait_while(part.done, number - 1);
    }
  }

 private:
  struct Part {
    alignas(64) std::atomic<std::uint32_t> begun = 0;  // the number of the last body of which it was begun,
    alignas(64) std::atomic<std::uint32_t> done = 0;   // and done
  };
  // What threads wait for.
  struct alignas(64) Job {
    std::atomic<std::uint32_t> news = 0;
    std::atomic<std::uint32_t> number = 0;
    std::atomic<detail::ThreadBody> body = nullptr;
    std::atomic<void*> context = nullptr;
    std::atomic<bool> ended = false;
    std::atomic<bool> has_background = false;  // mostly there is none: then no body costs a lock
  };

  void wake() {
    job_.news.fetch_add(1, std::memory_order_release);
    job_.news.notify_all();
  }

  // Runs a part unless it has begun. Numbers tell a thread that comes late that the part is not its body's
  // any more; a body does not end while one of its parts runs.
  void run_part(Part& part, int index, std::uint32_t number) {
    std::uint32_t before = number - 1;
    if (!part.begun.compare_exchange_strong(before, number, std::memory_order_acq_rel)) return;
    job_.body.load(std::memory_order_relaxed)(job_.context.load(std::memory_order_relaxed), index, parts());
    part.done.store(number, std::memory_order_release);
    part.done.notify_one();
  }

  // The thread's own part, then those that no thread has for its own.
  void run_own(int thread, std::uint32_t number) {
    run_part(parts_[static_cast<std::size_t>(thread)], thread, number);
    for (int part = threads_; part < parts(); ++part)
      run_part(parts_[static_cast<std::size_t>(part)], part, number);
  }

  void help(std::uint32_t number) {
    for (int part = 0; part < parts(); ++part)
      if (parts_[static_cast<std::size_t>(part)].begun.load(std::memory_order_relaxed) != number)
        run_part(parts_[static_cast<std::size_t>(part)], part, number);
  }

  void serve(int thread) {
    inside = true;
    for (std::uint32_t seen = 0;;) {
      wait_while(job_.news, seen);
      seen = job_.news.load(std::memory_order_acquire);
      if (job_.has_background && thread >= threads_ - threads_ / 2) {
        if (const auto tasks = background()) tasks->work(tasks->all.size());
      }
      if (job_.ended) return;
      const std::uint32_t number = job_.number.load(std::memory_order_acquire);
      run_own(thread, number);
      if (!changes(job_.news, seen, part_patience)) help(number);
    }
  }

  std::shared_ptr<detail::Tasks> background() {
    const std::lock_guard lock(background_in_use_);
    return background_;
  }

  std::vector<Part> parts_;
  int threads_;
  Job job_;
  std::mutex background_in_use_;
  std::shared_ptr<detail::Tasks> background_;
  std::vector<std::jthread> workers_;  // last: they end before what they use
};

struct {
  std::mutex in_use;
  int wanted = 0;  // 0: all cores
  std::unique_ptr<Pool> pool;
} shared;

// Of as many threads as are wanted now; `shared.in_use` must be held.
Pool& shared_pool(int threads) {
  if (!shared.pool || shared.pool->parts() != threads) {
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

int thread_count() { return shared.wanted > 0 ? shared.wanted : usable_cores(); }

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
  if (count <= 1) {
    if (count == 1) body(0);
    return;
  }
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
