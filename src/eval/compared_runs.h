// What another benchmark of the same kind measured, read from the file that it wrote: llama.cpp's, or our own
// of another time or machine.
#pragma once

#include <cstdint>
#include <filesystem>
#include <span>
#include <string>
#include <vector>

#include "base/json.h"
#include "eval/speed.h"

namespace fathom {

/// An entry of such a file. What goes through prompt and generation in one measurement has both counts.
struct ComparedTest {
  std::int64_t prompt = 0, generate = 0;  ///< tokens of each sequence
  std::int64_t depth = 0, batch = 1;
  std::int64_t groups = 0;   ///< as Workload's; 0 = of an engine that knows none, which goes with any
  double rate = 0;           ///< tokens a second, the median of the samples where they are given
  std::int64_t threads = 0;  ///< 0 = not said
  std::string machine;       ///< as the file names it; empty = not said

  bool matches(const Workload& work) const;
  std::string name() const;  ///< "pp512", "tg32 @ d4096", "pp512+tg128"
};

struct ComparedRun {
  std::filesystem::path file;
  std::string engine;               ///< "llama.cpp" or "fathom"
  std::vector<ComparedTest> tests;  ///< at least one

  /// The fastest of the tests that match, null if none does.
  const ComparedTest* counterpart(const Workload& work) const;

  /// {"engine", "tokens_per_second", "ratio"} of the counterpart, with the ratio of `rate` to its own; null
  /// if there is none.
  Json beside(const Workload& work, double rate) const;

  /// The names of the tests that match none of `works`, each once.
  std::vector<std::string> unmatched(std::span<const Workload> works) const;

  /// "compares 2 threads with 4, AMD EPYC with Intel(R) Xeon(R)": in what the counterparts of `works` were
  /// measured otherwise than here; empty if in nothing that the file says.
  std::string differences(std::span<const Workload> works, std::int64_t threads,
                          const std::string& machine) const;
};

/// Reads what `llama-bench -o json` or `-o jsonl`, `llama-batched-bench --output-format jsonl` or
/// `fathom bench --json` wrote, told apart by what is in it. Throws Error.
ComparedRun read_compared_run(const std::filesystem::path& file);

}  // namespace fathom
