#include "model/rope.h"

#include <algorithm>
#include <cmath>
#include <numbers>

#include "base/error.h"

namespace fathom {
namespace {

/// A number in [least, most]: what leaves these bounds is a damaged file, and would give infinite
/// frequencies.
double bounded(const JsonObject& json, const std::string& key, double least, double most) {
  const double value = json.number(key);
  if (value < least || value > most)
    fail("{} is {}, expected a number from {} to {}", json.field(key), value, least, most);
  return value;
}

double bounded_or(const JsonObject& json, const std::string& key, double fallback, double least,
                  double most) {
  return json.has(key) ? bounded(json, key, least, most) : fallback;
}

constexpr double most_factor = 1e6;
constexpr std::int64_t most_positions = std::int64_t{1} << 26;

double read_factor(const JsonObject& settings) { return bounded(settings, "factor", 1e-3, most_factor); }

double original_positions(const JsonObject& settings, const RopeDefaults& defaults) {
  const std::string key = "original_max_position_embeddings";
  return static_cast<double>(
      defaults.original_positions.value_or(settings.integer_or(key, defaults.positions, 1, most_positions)));
}

/// YaRN (Peng et al. 2023, arXiv 2309.00071): fast dimensions keep their frequency, slow ones are divided by
/// the factor, with a linear ramp between.
Rope make_yarn(const JsonObject& settings, const RopeDefaults& defaults, double theta,
               std::int64_t head_dim) {
  const double original = original_positions(settings, defaults);
  const double factor =
      settings.has("factor") ? read_factor(settings) : static_cast<double>(defaults.positions) / original;
  if (theta <= 1) fail("{} is {}, expected more than 1 for yarn", settings.field("rope_theta"), theta);

  const auto magnitude = [&](double scale) {
    return factor <= 1 ? 1.0 : 0.1 * scale * std::log(factor) + 1.0;
  };
  const double mscale = bounded_or(settings, "mscale", 0, 0, 1e3);
  const double mscale_all = bounded_or(settings, "mscale_all_dim", 0, 0, 1e3);
  const double inferred =
      mscale != 0 && mscale_all != 0 ? magnitude(mscale) / magnitude(mscale_all) : magnitude(1);
  Rope rope;
  rope.attention_factor = static_cast<float>(bounded_or(settings, "attention_factor", inferred, 0, 1e3));

  // The dimension whose wave turns `rotations` times within the original context. As in Python, 0 stands for
  // absent.
  const auto dimension = [&](double rotations) {
    return static_cast<double>(head_dim) * std::log(original / (rotations * 2 * std::numbers::pi)) /
           (2 * std::log(theta));
  };
  const auto rotations = [&](const std::string& key, double fallback) {
    const double value = bounded_or(settings, key, fallback, 0, 1e6);
    return value == 0 ? fallback : value;
  };
  double low = dimension(rotations("beta_fast", 32));
  double high = dimension(rotations("beta_slow", 1));
  if (settings.boolean_or("truncate", true)) {
    low = std::floor(low);
    high = std::ceil(high);
  }
  low = std::max(low, 0.0);
  high = std::min(high, static_cast<double>(head_dim - 1));
  if (low == high) high += 0.001;

  rope.frequencies = plain_frequencies(theta, head_dim);
  for (std::size_t i = 0; i < rope.frequencies.size(); i++) {
    const float ramp = std::clamp(
        (static_cast<float>(i) - static_cast<float>(low)) / static_cast<float>(high - low), 0.0F, 1.0F);
    const float kept = rope.frequencies[i];
    rope.frequencies[i] = kept / static_cast<float>(factor) * ramp + kept * (1 - ramp);
  }
  return rope;
}

}  // namespace

std::vector<float> plain_frequencies(double theta, std::int64_t head_dim) {
  std::vector<float> frequencies(static_cast<std::size_t>(head_dim / 2));
  for (std::size_t i = 0; i < frequencies.size(); i++) {
    const float exponent = static_cast<float>(2 * i) / static_cast<float>(head_dim);
    frequencies[i] = 1.0F / static_cast<float>(std::pow(static_cast<double>(static_cast<float>(theta)),
                                                        static_cast<double>(exponent)));
  }
  return frequencies;
}

std::vector<float> llama3_frequencies(double theta, std::int64_t head_dim, const Llama3Scaling& scaling) {
  std::vector<float> frequencies = plain_frequencies(theta, head_dim);
  const double longest = scaling.original_positions / scaling.low_frequency;
  const double shortest = scaling.original_positions / scaling.high_frequency;
  for (float& frequency : frequencies) {
    const double wavelength = 2 * std::numbers::pi / static_cast<double>(frequency);
    if (wavelength < shortest) continue;
    const double stretched = static_cast<double>(frequency) / scaling.factor;
    if (wavelength > longest) {
      frequency = static_cast<float>(stretched);
      continue;
    }
    const double smooth = (scaling.original_positions / wavelength - scaling.low_frequency) /
                          (scaling.high_frequency - scaling.low_frequency);
    frequency = static_cast<float>((1 - smooth) * stretched + smooth * static_cast<double>(frequency));
  }
  return frequencies;
}

Rope make_rope(const JsonObject& settings, const RopeDefaults& defaults, std::int64_t head_dim) {
  const double theta = bounded_or(settings, "rope_theta", defaults.theta, 1e-3, 1e15);
  const double rotated = settings.number_or("partial_rotary_factor", 1);
  if (rotated != 1)
    fail("{} is {}: rotating only a part of each head is not supported (expected 1)",
         settings.field("partial_rotary_factor"), rotated);
  // "type" is what transformers before 4.43 wrote.
  const std::string key = settings.has("rope_type") ? "rope_type" : "type";
  const std::string type = settings.string_or(key, "default");

  Rope rope;
  if (type == "default" || type == "dynamic") {
    rope.frequencies = plain_frequencies(theta, head_dim);
  } else if (type == "linear") {
    rope.frequencies = plain_frequencies(theta, head_dim);
    const double factor = read_factor(settings);
    for (float& frequency : rope.frequencies) frequency /= static_cast<float>(factor);
  } else if (type == "llama3") {
    Llama3Scaling scaling;
    scaling.factor = read_factor(settings);
    scaling.low_frequency = bounded(settings, "low_freq_factor", 1e-3, most_factor);
    scaling.high_frequency = bounded(settings, "high_freq_factor", 1e-3, most_factor);
    scaling.original_positions = original_positions(settings, defaults);
    if (scaling.high_frequency <= scaling.low_frequency)
      fail("{} is {}, expected more than low_freq_factor, which is {}", settings.field("high_freq_factor"),
           scaling.high_frequency, scaling.low_frequency);
    rope.frequencies = llama3_frequencies(theta, head_dim, scaling);
  } else if (type == "yarn") {
    rope = make_yarn(settings, defaults, theta, head_dim);
  } else {
    fail(
        "{} is '{}': this rotary scaling is not supported (supported: default, linear, dynamic, llama3, "
        "yarn)",
        settings.field(key), type);
  }
  for (const float frequency : rope.frequencies)
    if (!std::isfinite(frequency))
      fail("{} is {}, which gives frequencies that are no numbers", settings.field("rope_theta"), theta);
  return rope;
}

}  // namespace fathom
