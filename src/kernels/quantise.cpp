#include "kernels/quantise.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <limits>
#include <numeric>
#include <vector>

#include "formats/float16.h"

namespace fathom {
namespace {

// To the nearest whole number, halves to even, for |x| < 2^22: beyond 1.5 * 2^23 a float has no fraction
// left. std::nearbyint would be a call for each value on machines without SSE4.1.
float nearest(float x) {
  constexpr float beyond = 12'582'912.0F;
  return (x + beyond) - beyond;
}

float largest_magnitude(std::span<const float> values) {
  // Magnitudes compare as their bits do, and infinities and what is not a number lie above all others: a loop
  // without a branch, which becomes one over vectors.
  std::int32_t largest = 0;
  for (const float v : values) largest = std::max(largest, std::bit_cast<std::int32_t>(v) & 0x7fffffff);
  const auto magnitude = std::bit_cast<float>(largest);
  return std::isfinite(magnitude) ? magnitude : std::numeric_limits<float>::quiet_NaN();
}

// Squared error of a group at `step`, weights to which the integers -8 to 7 stand for multiples of it. Eight
// sums side by side are vectors to the compiler, which may not change the order of one.
float group_error(std::span<const float> weights, float step) {
  constexpr std::size_t lanes = 8;
  const float inverse = 1 / step;
  float errors[lanes] = {};
  const auto add = [&](std::size_t lane, float w) {
    const float d = w - step * std::min(std::max(nearest(w * inverse), -8.0F), 7.0F);
    errors[lane] += d * d;
  };
  std::size_t i = 0;
  for (; i + lanes <= weights.size(); i += lanes)
    for (std::size_t lane = 0; lane < lanes; ++lane) add(lane, weights[i + lane]);
  for (; i < weights.size(); ++i) add(i % lanes, weights[i]);
  return std::accumulate(std::begin(errors), std::end(errors), 0.0F);
}

// The step with the least squared error of those that make the largest weight -8.5 to -5.5: its sign is the
// step's, because there is one integer more below zero than above.
float best_step(std::span<const float> weights) {
  const float largest = largest_magnitude(weights);
  if (!(largest > 0)) return largest;
  const bool positive = std::ranges::find(weights, largest) != weights.end();
  float best = 0, least = std::numeric_limits<float>::infinity();
  for (const float levels : {5.5F, 6.1F, 6.6F, 7.0F, 7.4F, 7.7F, 8.0F, 8.5F}) {
    const float step = (positive ? -largest : largest) / levels;
    const float error = group_error(weights, step);
    if (error < least) {
      least = error;
      best = step;
    }
  }
  return best;
}

// Whole multiples of `scale`; of one that is 0 or, because weights are not finite, NaN, zeros.
void round_to(std::span<const float> weights, float scale, float least, float most,
              std::span<std::int8_t> q) {
  const float inverse = 1 / scale;
  if (!std::isfinite(inverse)) {
    std::ranges::fill(q, std::int8_t{0});
    return;
  }
  for (std::size_t i = 0; i < weights.size(); ++i)
    q[i] = static_cast<std::int8_t>(std::min(std::max(nearest(weights[i] * inverse), least), most));
}

// The nearest f16, and the largest for what is beyond: scales of weights above 500,000 in magnitude.
float as_f16(float value) { return from_f16(to_f16(std::clamp(value, -65504.0F, 65504.0F))); }

}  // namespace

float quantise_int8(std::span<const float> weights, std::span<std::int8_t> q) {
  const float scale = largest_magnitude(weights) / 127;
  round_to(weights, scale, -127, 127, q);
  return scale;
}

float quantise_int8_group(std::span<const float> weights, std::span<std::int8_t> q) {
  const float scale = as_f16(largest_magnitude(weights) / 127);
  round_to(weights, scale, -127, 127, q);
  return scale;
}

float quantise_int6_group(std::span<const float> weights, std::span<std::int8_t> q) {
  const float scale = as_f16(largest_magnitude(weights) / 31);
  round_to(weights, scale, -31, 31, q);
  return scale;
}

float quantise_int4_group(std::span<const float> weights, std::span<std::int8_t> q) {
  const float scale = as_f16(best_step(weights));
  round_to(weights, scale, -8, 7, q);
  return scale;
}

float quantise_int4(std::span<const float> weights, std::span<std::int8_t> q,
                    std::span<std::int8_t> multipliers) {
  constexpr auto size = static_cast<std::size_t>(group_size);
  const auto group = [&](std::size_t g) {
    return weights.subspan(g * size, std::min(size, weights.size() - g * size));
  };
  std::fill(q.begin(), q.end(), std::int8_t{0});
  std::fill(multipliers.begin(), multipliers.end(), std::int8_t{1});
  std::vector<float> steps(multipliers.size());
  float largest = 0;
  for (std::size_t g = 0; g < steps.size(); ++g) {
    steps[g] = best_step(group(g));
    if (std::isnan(steps[g])) return std::numeric_limits<float>::quiet_NaN();
    largest = std::max(largest, std::fabs(steps[g]));
  }
  if (largest == 0) return 0;
  const float scale = largest / int4_largest_multiplier;
  for (std::size_t g = 0; g < steps.size(); ++g) {
    // Of the two whole multipliers around the best step the one with less error.
    const float wanted = std::fabs(steps[g]) / scale, sign = std::copysign(1.0F, steps[g]);
    constexpr auto most = static_cast<float>(int4_largest_multiplier);
    const float lower = std::clamp(std::floor(wanted), 1.0F, most), upper = std::min(lower + 1, most);
    const float step = sign * scale;
    const float chosen =
        group_error(group(g), step * lower) <= group_error(group(g), step * upper) ? lower : upper;
    multipliers[g] = static_cast<std::int8_t>(sign * chosen);
    const auto values = group(g);
    round_to(values, step * chosen, -8, 7, q.subspan(g * size, values.size()));
  }
  return scale;
}

float quantise_activations(std::span<const float> values, std::span<std::int8_t> q) {
  float largest = 0;
  for (const float v : values) largest = std::max(largest, std::fabs(v));
  const float inverse = largest > 0 ? 127 / largest : 0;
  for (std::size_t i = 0; i < values.size(); ++i)
    q[i] = static_cast<std::int8_t>(nearest(values[i] * inverse));
  return largest / 127;
}

}  // namespace fathom
