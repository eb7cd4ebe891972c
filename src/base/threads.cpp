#include "base/threads.h"

#include <omp.h>
#include <unistd.h>

#include <cstdlib>
#include <exception>

#include "base/error.h"

namespace fathom {

void set_threads(int count) {
  if (count < 0 || count > 4096) fail_usage("--threads is {}, expected 0 (all cores) to 4096", count);
  omp_set_num_threads(count > 0 ? count : omp_get_num_procs());
}

int thread_count() { return omp_get_max_threads(); }

void spin_briefly(char** arguments) {
  if (std::getenv("GOMP_SPINCOUNT") != nullptr || std::getenv("OMP_WAIT_POLICY") != nullptr) return;
  if (::setenv("GOMP_SPINCOUNT", "1000", 0) == 0) ::execv("/proc/self/exe", arguments);
}

void parallel_for(std::int64_t count, const std::function<void(std::int64_t)>& body) {
  std::exception_ptr first;
#pragma omp parallel for schedule(static)
  for (std::int64_t i = 0; i < count; ++i) {
    try {
      body(i);
    } catch (...) {
#pragma omp critical
      if (!first) first = std::current_exception();
    }
  }
  if (first) std::rethrow_exception(first);
}

}  // namespace fathom
