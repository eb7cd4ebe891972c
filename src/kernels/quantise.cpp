#include "kernels/quantise.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <limits>
#include <vector>

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

// Squared error of a group at `step`, weights to which the integers -8 to 7 stand for multiples of it.
float group_error(std::span<const float> weights, float step) {
  const float inverse = 1 / step;
  float error = 0;
  for (const float w : weights) {
    const float d = w - step * std::clamp(nearest(w * inverse), -8.0F, 7.0F);
    error += d * d;
  }
  return error;
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

}  // namespace

float quantise_int8(std::span<const float> weights, std::span<std::int8_t> q) {
  const float scale = largest_magnitude(weights) / 127;
  const float inverse =
      scale > 0 ? 1 / scale : 0;  // the NaN of weights that are not finite, too, gives zeros
  for (std::size_t i = 0; i < weights.size(); ++i) {
    const float scaled = inverse > 0 ? weights[i] * inverse : 0.0F;
    q[i] = static_cast<std::int8_t>(std::min(std::max(nearest(scaled), -127.0F), 127.0F));
  }
  return scale;
}

float quantise_int4(std::span<const float> weights, std::span<std::uint8_t> q,
                    std::span<std::int8_t> multipliers) {
  const auto group_size = static_cast<std::size_t>(int4_group);
  const auto group = [&](std::size_t g) {
    return weights.subspan(g * group_size, std::min(group_size, weights.size() - g * group_size));
  };
  std::fill(q.begin(), q.end(), std::uint8_t{8});
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
    const float inverse = 1 / (step * chosen);
    const auto values = group(g);
    for (std::size_t i = 0; i < values.size(); ++i)
      q[g * group_size + i] =
          static_cast<std::uint8_t>(8 + std::clamp(nearest(values[i] * inverse), -8.0F, 7.0F));
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
