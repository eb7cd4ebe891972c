#include "depth/calibrate.h"

#include <algorithm>
#include <cmath>

#include "base/error.h"

namespace fathom {
namespace {

bool is_linear_input(Tap tap) {
  const auto& inputs = shared_inputs();
  return std::any_of(inputs.begin(), inputs.end(), [tap](const SharedInput& i) { return i.tap == tap; });
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
  const auto found = sums_.find({tap, visit});
  if (found == sums_.end()) return;
  Sum& sum = found->second;
  const std::int64_t width = static_cast<std::int64_t>(values.size()) / rows;
  if (sum.rows == 0) sum.products = Matrix(width, width);
  sum.rows += rows;
  add_gram(rows, values.data(), sum.products);
}

Matrix SecondMoments::take(Tap tap, std::int64_t visit, std::span<const float> gain) {
  Sum& sum = sums_.at({tap, visit});
  Matrix moments = std::move(sum.products);
  const auto inverse = [&](std::int64_t i) {  // an input that the norm shuts off has no say
    if (gain.empty()) return 1.0F;
    const float g = gain[static_cast<std::size_t>(i)];
    return g == 0 ? 0.0F : 1 / g;
  };
  double trace = 0;
  for (std::int64_t i = 0; i < moments.rows; ++i) {
    const float scale = inverse(i) / static_cast<float>(sum.rows);
    for (std::int64_t j = 0; j <= i; ++j) moments.row(j)[i] = moments.row(i)[j] *= scale * inverse(j);
    trace += static_cast<double>(moments.row(i)[i]);
  }
  if (!(trace > 0) || !std::isfinite(trace)) {
    fail("calibration: the inputs of visit {} are {}: is the model sound and the text not empty?", visit,
         trace == 0 ? "all zero" : "not finite");
  }
  const auto ridge = static_cast<float>(1e-3 * trace / static_cast<double>(moments.rows));
  for (std::int64_t i = 0; i < moments.rows; ++i) moments.row(i)[i] += ridge;
  return moments;
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
