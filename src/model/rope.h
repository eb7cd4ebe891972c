// Rotary frequencies as transformers computes them (modeling_rope_utils.py), in float32 like there.
#pragma once

#include <cstdint>
#include <optional>
#include <vector>

#include "base/json.h"
#include "model/config.h"

namespace fathom {

/// Llama 3.1's scaling: wavelengths above original / low are stretched by `factor`, those below original /
/// high are kept, and those between are blended.
struct Llama3Scaling {
  double factor = 8;
  double low_frequency = 1;
  double high_frequency = 4;
  double original_positions = 8192;
};

/// theta^(-2i / head_dim) for i in [0, head_dim / 2).
std::vector<float> plain_frequencies(double theta, std::int64_t head_dim);
std::vector<float> llama3_frequencies(double theta, std::int64_t head_dim, const Llama3Scaling& scaling);

/// What the settings leave out.
struct RopeDefaults {
  double theta = 10'000;
  std::int64_t positions = 0;                      ///< max_position_embeddings
  std::optional<std::int64_t> original_positions;  ///< config.json's own original_max_position_embeddings: it
                                                   ///< goes before the settings'
};

/// The rotary embedding of one `rope_parameters` (or `rope_scaling`) object: default, linear, llama3, yarn,
/// or dynamic. Dynamic scaling changes nothing up to max_position_embeddings, which is the longest context
/// Fathom runs, so it equals default. Throws Error naming file and field; other types are refused by name.
Rope make_rope(const JsonObject& settings, const RopeDefaults& defaults, std::int64_t head_dim);

}  // namespace fathom
