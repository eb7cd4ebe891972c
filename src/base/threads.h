// One pool of threads for everything but libtorch, which brings its own.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <type_traits>
#include <vector>

namespace fathom {

/// How many parts work is cut into from here on; 0 = as many as there are cores to use (base/processor.h). Of
/// more than those, each of as many threads as there are cores does several.
void set_threads(int count);
int thread_count();

/// Calls body(part, parts) once for each part, on the pool's threads and the caller's, and returns when all
/// are done. Each thread takes its own part and, after 2 us, those that nobody has begun, so a thread that
/// still sleeps, or whose core another process has, holds nobody up: beside a busy process on one of two
/// cores half of the speed is left, not a quarter. The body must not throw. Within a body, and while another
/// thread uses the pool, the whole work is the caller's: body(0, 1). Starting and ending cost 0.1 us on two
/// cores while the pool's threads are awake; after some 200 us without work they sleep, and waking them takes
/// as long again.
template <typename Body>
void on_each_thread(Body&& body);

/// Runs body(i) for i in [0, count) on the pool; each thread gets one contiguous share. The first exception
/// is rethrown.
void parallel_for(std::int64_t count, const std::function<void(std::int64_t)>& body);

namespace detail {
using ThreadBody = void (*)(void* context, int thread, int threads);
void on_each_thread(ThreadBody body, void* context);
struct Tasks;
}  // namespace detail

/// Work that half of the pool's threads do while the caller goes on with the others: what waits for memory
/// beside what computes. Of several the threads work on the one begun last; the others wait for finish().
class Background {
 public:
  Background() = default;
  /// Waits for what is left.
  ~Background() { finish(); }
  Background(const Background&) = delete;
  Background& operator=(const Background&) = delete;

  /// Begins `tasks`, after what is left of those before. They are taken in their order, each is one thread's,
  /// and must not throw.
  void begin(std::vector<std::function<void()>> tasks);
  /// Returns when the first `count` tasks are done, to which it helps with all threads.
  void finish(std::size_t count);
  void finish();

 private:
  std::shared_ptr<detail::Tasks> tasks_;
};

template <typename Body>
void on_each_thread(Body&& body) {
  const auto call = [](void* context, int thread, int threads) {
    (*static_cast<std::remove_reference_t<Body>*>(context))(thread, threads);
  };
  detail::on_each_thread(call, const_cast<void*>(static_cast<const void*>(&body)));
}

}  // namespace fathom
