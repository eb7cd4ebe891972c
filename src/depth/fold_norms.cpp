#include "depth/fold_norms.h"

#include <utility>
#include <vector>

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

Matrix folded_weight(const Checkpoint& checkpoint, std::int64_t layer, Linear linear) {
  const Tensor& tensor = checkpoint.layer_tensor(layer, std::string(linear_name(linear)) + ".weight");
  Matrix weight;
  weight.rows = tensor.rows();
  weight.cols = tensor.row_elements();
  weight.values = decode(tensor);
  const std::string norm = norm_before(checkpoint.config, linear);
  if (norm.empty()) return weight;
  const std::vector<float> gain = decode(checkpoint.layer_tensor(layer, norm + ".weight"));
  const float offset = checkpoint.config.norm_plus_one ? 1.0F : 0.0F;
  for (std::int64_t i = 0; i < weight.rows; ++i) {
    for (std::int64_t j = 0; j < weight.cols; ++j) {
      weight.row(i)[j] *= gain[static_cast<std::size_t>(j)] + offset;
    }
  }
  return weight;
}

float neutral_norm(const ModelConfig& config) { return config.norm_plus_one ? 0.0F : 1.0F; }

}  // namespace fathom
