// What the benchmarks of training share.
#pragma once

#include <fmt/format.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <vector>

#include "base/threads.h"
#include "kernels/ceilings.h"

namespace fathom {

/// Takes the number of threads from the command line (none: all cores), prints the operations a second that
/// this machine's tiles (or vectors) reach in bf16 with all operands in the cache, and returns them.
inline double begin_bench(int argc, char** argv) {
  std::setvbuf(stdout, nullptr, _IOLBF, 0);
  set_threads(argc > 1 ? std::atoi(argv[1]) : 0);
  const double ceiling = product_ceiling(Operand::bf16).rate;
  fmt::print("ceiling: {:.0f} GFLOP/s\n", ceiling * 1e-9);
  return ceiling;
}

inline double median(std::vector<double> values) {
  const auto middle = values.begin() + std::ssize(values) / 2;
  std::ranges::nth_element(values, middle);
  return *middle;
}

}  // namespace fathom
