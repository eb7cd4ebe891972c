// Second moments of what the linear maps read, from a calibration text: the weights of the calibrated fit.
#pragma once

#include <cstdint>
#include <map>
#include <span>
#include <utility>
#include <vector>

#include "depth/linear_algebra.h"
#include "runtime/engine.h"

namespace fathom {

/// The linear maps of a layer that read one and the same input, and where an observer sees it.
struct SharedInput {
  Tap tap;
  std::vector<Linear> readers;
};
/// {q, k, v}, {o}, {gate, up}, {down}.
const std::vector<SharedInput>& shared_inputs();

/// Sums x xᵀ over the rows that the wanted visits' linear maps read.
class SecondMoments : public Observer {
 public:
  /// Only these visits are summed: a visit takes 4 (in_1² + ...) bytes, 13 MB at hidden size 576 and 1.4 GB
  /// at 4096, so that large models go through the text several times, some visits each time.
  explicit SecondMoments(std::span<const std::int64_t> visits);
  void observe(Tap tap, std::int64_t visit, std::int64_t rows, std::span<const float> values) override;

  /// E[x xᵀ] of the inputs before their norm's `gain` (none where it is empty), plus 1e-3 of its mean
  /// diagonal on the diagonal, so that directions that the text never used count a little. Gives the memory
  /// away. Throws Error when nothing was seen or a value is not finite.
  Matrix take(Tap tap, std::int64_t visit, std::span<const float> gain);

 private:
  struct Sum {
    Matrix products;  ///< the lower triangle
    std::int64_t rows = 0;
  };
  std::map<std::pair<Tap, std::int64_t>, Sum> sums_;
};

/// Bytes that SecondMoments holds for one visit.
std::int64_t moment_bytes(const ModelConfig& config);

}  // namespace fathom
