// One pool of threads for everything: OpenMP's, which oneDNN uses too.
#pragma once

#include <cstdint>
#include <functional>

namespace fathom {

/// How many threads the program uses from here on; 0 = every core the process may run on.
void set_threads(int count);
int thread_count();

/// Runs body(i) for i in [0, count) on the pool; each thread gets one contiguous share. The first exception
/// is rethrown.
void parallel_for(std::int64_t count, const std::function<void(std::int64_t)>& body);

}  // namespace fathom
