#include "depth/calibrate.h"

#include <cblas.h>

#include <algorithm>
#include <cmath>

#include "base/error.h"
#include "base/threads.h"

namespace fathom {
namespace {

bool is_linear_input(Tap tap) {
  const auto& inputs = shared_inputs();
  return std::any_of(inputs.begin(), inputs.end(), [tap](const SharedInput& i) { return i.tap == tap; });
}

/// sum += xᵀ x, the lower triangle alone: strips of rows, each one product with the columns up to its end. A
/// job takes a strip from either end, so that all jobs are alike.
void add_outer_products(std::int64_t rows, const float* x, Matrix& sum) {
  constexpr std::int64_t strip_rows = 64;
  const std::int64_t width = sum.rows, strips = (width + strip_rows - 1) / strip_rows;
  const auto add_strip = [&](std::int64_t strip) {
    const std::int64_t first = strip * strip_rows, last = std::min(width, first + strip_rows);
    cblas_sgemm(CblasRowMajor, CblasTrans, CblasNoTrans, static_cast<int>(last - first),
                static_cast<int>(last), static_cast<int>(rows), 1, x + first, static_cast<int>(width), x,
                static_cast<int>(width), 1, sum.row(first), static_cast<int>(width));
  };
  parallel_for((strips + 1) / 2, [&](std::int64_t i) {
    add_strip(i);
    if (strips - 1 - i != i) add_strip(strips - 1 - i);
  });
}

}  // namespace

const std::vector<SharedInput>& shared_inputs() {
  static const std::vector<SharedInput> inputs{{Tap::attention_input, {Linear::q, Linear::k, Linear::v}},
                                               {Tap::attention_mixed, {Linear::o}},
                                               {Tap::ffn_input, {Linear::gate, Linear::up}},
                                               {Tap::ffn_gated, {Linear::down}}};
  return inputs;
}

SecondMoments::SecondMoments(std::span<const std::int64_t> visits) {
  for (const std::int64_t visit : visits) {
    for (const SharedInput& input : shared_inputs()) sums_[{input.tap, visit}];
  }
}

void SecondMoments::observe(Tap tap, std::int64_t visit, std::int64_t rows, std::span<const float> values) {
  if (!is_linear_input(tap) || rows == 0) return;
  const auto sum = sums_.find({tap, visit});
  if (sum == sums_.end()) return;
  const std::int64_t width = static_cast<std::int64_t>(values.size()) / rows;
  if (sum->second.rows == 0) sum->second = Matrix(width, width);
  add_outer_products(rows, values.data(), sum->second);
}

Matrix SecondMoments::take(Tap tap, std::int64_t visit) {
  Matrix sum = std::move(sums_[{tap, visit}]);
  double trace = 0;
  for (std::int64_t i = 0; i < sum.rows; ++i) trace += static_cast<double>(sum.row(i)[i]);
  if (!(trace > 0) || !std::isfinite(trace)) {
    fail("calibration: the inputs of visit {} are {}: is the model sound and the text not empty?", visit,
         trace == 0 ? "all zero" : "not finite");
  }
  const auto scale = static_cast<float>(static_cast<double>(sum.rows) / trace);
  constexpr float ridge = 1e-3F;
  for (std::int64_t i = 0; i < sum.rows; ++i) {
    for (std::int64_t j = 0; j <= i; ++j) sum.row(j)[i] = sum.row(i)[j] *= scale;
    sum.row(i)[i] += ridge;
  }
  return sum;
}

std::int64_t moment_bytes(const ModelConfig& config) {
  std::int64_t bytes = 0;
  for (const SharedInput& input : shared_inputs()) {
    const std::int64_t width = in_features(config, input.readers.front());
    bytes += width * width * static_cast<std::int64_t>(sizeof(float));
  }
  return bytes;
}

}  // namespace fathom
