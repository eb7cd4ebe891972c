#include "depth/fold_norms.h"

#include <algorithm>
#include <functional>

namespace fathom {
namespace {

/// Name of the norm whose output a linear map reads; empty for o and down.
std::string norm_before(const ModelConfig& config, Linear linear) {
  switch (linear) {
    case Linear::q:
    case Linear::k:
    case Linear::v:
      return "input_layernorm";
    case Linear::gate:
    case Linear::up:
      return config.sandwich_norms ? "pre_feedforward_layernorm" : "post_attention_layernorm";
    case Linear::o:
    case Linear::down:
      break;
  }
  return "";
}

}  // namespace

bool is_foldable(const ModelConfig& config, const std::string& norm) {
  return norm == norm_before(config, Linear::q) || norm == norm_before(config, Linear::gate);
}

std::vector<float> gain_before(const Checkpoint& checkpoint, std::int64_t layer, Linear linear) {
  const std::string norm = norm_before(checkpoint.config, linear);
  if (norm.empty()) return {};
  std::vector<float> gain = decode(checkpoint.layer_tensor(layer, norm + ".weight"));
  if (checkpoint.config.norm_plus_one) {
    for (float& value : gain) value += 1;
  }
  return gain;
}

Matrix folded_weight(const Checkpoint& checkpoint, std::int64_t layer, Linear linear) {
  Matrix weight = to_matrix(checkpoint.layer_tensor(layer, std::string(linear_name(linear)) + ".weight"));
  const std::vector<float> gain = gain_before(checkpoint, layer, linear);
  if (gain.empty()) return weight;
  for (std::int64_t i = 0; i < weight.rows; ++i) {
    std::transform(gain.begin(), gain.end(), weight.row(i), weight.row(i), std::multiplies<>());
  }
  return weight;
}

float neutral_norm(const ModelConfig& config) { return config.norm_plus_one ? 0.0F : 1.0F; }

}  // namespace fathom
