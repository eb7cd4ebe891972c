// A workload's speed beside what the machine allows: bytes, operations, and the ceilings of the same minute.
#pragma once

#include <cstdint>

#include "base/json.h"
#include "eval/speed.h"
#include "kernels/ceilings.h"
#include "model/checkpoint.h"
#include "runtime/engine.h"

namespace fathom {

/// The least that one run of a workload must move and calculate.
struct Cost {
  double bytes = 0;  ///< read: all packed weights once a step, and the keys and values that each token sees
  double operations =
      0;  ///< of matrix products and attention; the head once for each token that is predicted
};
Cost cost_of(const Workload& work, const Checkpoint& checkpoint, const Engine& engine);

struct BenchResult {
  Workload work;
  Decoder::Counts counts;       ///< of generation
  std::vector<double> samples;  ///< tokens a second, summed over the batch, of each repetition
  Spread rate;                  ///< of the samples
  double read = 0;              ///< bytes a second: cost over the mean time
  double operations = 0;        ///< a second
  double read_ceiling = 0;      ///< the better of one measurement before and one after
  ProductCeiling product_ceiling;
  std::int64_t peak_memory = 0;  ///< resident while it ran; 0 where the system does not say

  /// The larger of the two rates' shares of their ceilings: 1 is what the machine allows.
  double share() const;
  bool bound_by_reading() const;  ///< whether that is the share of the read ceiling
};

/// `operand` is what the matrix products multiply. With exits or drafts the costs, and so the shares, stay
/// those of full depth.
BenchResult bench(Engine& engine, const Checkpoint& checkpoint, Operand operand, const Workload& work,
                  const DecoderOptions& options, int repetitions, Progress& progress);

/// How many times faster than at full depth generation with exits can be: all operations of a token over
/// those that are left when it makes `visits` of them and asks the head at `heads` exits (the last one's
/// included): the bound of continuous depth-wise batching (Bae et al. 2024, arXiv 2410.20672, appendix K).
double exit_bound(const Checkpoint& checkpoint, double visits, double heads);

/// Flat but for the list of samples.
Json to_json(const BenchResult& result);

}  // namespace fathom
