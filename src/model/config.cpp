#include "model/config.h"

namespace fathom {

const char* linear_name(Linear linear) {
  switch (linear) {
    case Linear::q:
      return "self_attn.q_proj";
    case Linear::k:
      return "self_attn.k_proj";
    case Linear::v:
      return "self_attn.v_proj";
    case Linear::o:
      return "self_attn.o_proj";
    case Linear::gate:
      return "mlp.gate_proj";
    case Linear::up:
      return "mlp.up_proj";
    case Linear::down:
      break;
  }
  return "mlp.down_proj";
}

std::int64_t out_features(const ModelConfig& config, Linear linear) {
  switch (linear) {
    case Linear::q:
      return config.heads * config.head_dim;
    case Linear::k:
    case Linear::v:
      return config.kv_heads * config.head_dim;
    case Linear::gate:
    case Linear::up:
      return config.intermediate_size;
    case Linear::o:
    case Linear::down:
      break;
  }
  return config.hidden_size;
}

std::int64_t in_features(const ModelConfig& config, Linear linear) {
  switch (linear) {
    case Linear::o:
      return config.heads * config.head_dim;
    case Linear::down:
      return config.intermediate_size;
    default:
      return config.hidden_size;
  }
}

bool has_bias(const ModelConfig& config, Linear linear) {
  switch (linear) {
    case Linear::q:
    case Linear::k:
    case Linear::v:
      return config.qkv_bias;
    case Linear::o:
      return config.o_bias;
    default:
      return config.mlp_bias;
  }
}

std::vector<NormInfo> layer_norms(const ModelConfig& config) {
  std::vector<NormInfo> norms{{"input_layernorm", config.hidden_size}};
  if (config.qk_norm) {
    norms.push_back({"self_attn.q_norm", config.head_dim});
    norms.push_back({"self_attn.k_norm", config.head_dim});
  }
  norms.push_back({"post_attention_layernorm", config.hidden_size});
  if (config.sandwich_norms) {
    // Hugging Face's names for Gemma 2 and 3: post_attention_layernorm is then the norm after attention.
    norms.push_back({"pre_feedforward_layernorm", config.hidden_size});
    norms.push_back({"post_feedforward_layernorm", config.hidden_size});
  }
  return norms;
}

}  // namespace fathom
