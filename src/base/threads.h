// One pool of threads for everything: OpenMP's, which oneDNN uses too.
#pragma once

#include <cstdint>
#include <functional>

namespace fathom {

/// How many threads the program uses from here on; 0 = every core the process may run on.
void set_threads(int count);
int thread_count();

/// To be called first in main. libgomp lets idle threads spin for 300,000 rounds (some 10 ms) before they
/// sleep; on cores that other programs use too, that made a run of small products 25 times slower. 1,000
/// rounds (about 50 us) still bridge the gaps between the products of a layer. libgomp reads its environment
/// before main, so this sets GOMP_SPINCOUNT and starts the program again, unless the user has chosen a
/// policy.
void spin_briefly(char** arguments);

/// Runs body(i) for i in [0, count) on the pool; each thread gets one contiguous share. The first exception
/// is rethrown.
void parallel_for(std::int64_t count, const std::function<void(std::int64_t)>& body);

}  // namespace fathom
