#include "train/model.h"

#include <algorithm>
#include <cmath>
#include <utility>

namespace fathom {
namespace {

at::Tensor to_torch(const Tensor& tensor) {
  std::vector<float> values = decode(tensor);
  return at::from_blob(values.data(), tensor.shape, at::kFloat).clone();
}

Tensor from_torch(const at::Tensor& tensor, DType type) {
  const at::Tensor values = tensor.detach().to(at::kFloat).contiguous();
  const std::span<const float> span(values.data_ptr<float>(), static_cast<std::size_t>(values.numel()));
  return make_tensor(type, values.sizes().vec(), span);
}

at::Tensor activate(Activation activation, const at::Tensor& x) {
  switch (activation) {
    case Activation::silu:
      return at::silu(x);
    case Activation::gelu:
      return at::gelu(x);
    case Activation::gelu_tanh:
      return at::gelu(x, "tanh");
    case Activation::relu:
      break;
  }
  return at::relu(x);
}

}  // namespace

TrainModel::TrainModel(const Checkpoint& checkpoint, const Options& options)
    : config_(checkpoint.config), options_(options), compute_(options.bf16 ? at::kBFloat16 : at::kFloat) {
  embedding_ = parameter(checkpoint, "model.embed_tokens.weight");
  final_norm_ = parameter(checkpoint, "model.norm.weight");
  head_ = config_.tied_embeddings ? embedding_ : parameter(checkpoint, "lm_head.weight");
  for (const Visit& visit : checkpoint.plan.visits) blocks_.push_back(block(checkpoint, visit));
}

const Parameter* TrainModel::parameter(const Checkpoint& checkpoint, const std::string& name) {
  const auto [entry, is_new] = parameters_.try_emplace(name);
  Parameter& result = entry->second;
  if (!is_new) return &result;
  const bool trainable = options_.trainable == Trainable::all || name.starts_with("model.adapters.");
  const at::Tensor values = to_torch(checkpoint.tensor(name));
  // Norms and biases (one dimension) are read in float32 and cast where they are used, if at all.
  result.compute = values.dim() == 1 ? values : values.to(compute_);
  if (trainable) {
    result.master = values;
    result.gradient = at::zeros_like(values);
    result.compute.set_requires_grad(true);
  }
  return &result;
}

TrainModel::Block TrainModel::block(const Checkpoint& checkpoint, const Visit& visit) {
  Block result;
  result.type = visit.type;
  const auto optional_adapter = [&](const std::string& name) -> const Parameter* {
    if (visit.adapter < 0 || checkpoint.adapter_tensor(visit.adapter, name) == nullptr) return nullptr;
    return parameter(checkpoint, adapter_name(visit.adapter, name));
  };
  for (const Linear linear : all_linears) {
    const std::string name = linear_name(linear);
    Map& map = result.maps[static_cast<int>(linear)];
    map.weight = parameter(checkpoint, layer_name(visit.layer, name + ".weight"));
    if (has_bias(config_, linear)) map.bias = parameter(checkpoint, layer_name(visit.layer, name + ".bias"));
    map.pair = {optional_adapter(name + ".lora_A.weight"), optional_adapter(name + ".lora_B.weight"),
                optional_adapter(name + ".lora_B.bias")};
  }
  const auto norm = [&](const char* name) {
    const Parameter* own = optional_adapter(std::string(name) + ".weight");
    return own != nullptr ? own
                          : parameter(checkpoint, layer_name(visit.layer, std::string(name) + ".weight"));
  };
  result.input_norm = norm("input_layernorm");
  if (config_.qk_norm) {
    result.q_norm = norm("self_attn.q_norm");
    result.k_norm = norm("self_attn.k_norm");
  }
  if (config_.sandwich_norms) {
    result.attention_norm = norm("post_attention_layernorm");
    result.ffn_norm = norm("pre_feedforward_layernorm");
    result.ffn_out_norm = norm("post_feedforward_layernorm");
  } else {
    result.ffn_norm = norm("post_attention_layernorm");
  }
  return result;
}

at::Tensor TrainModel::apply(const Block& block, Linear which, const at::Tensor& x) const {
  const Map& map = block.maps[static_cast<int>(which)];
  at::Tensor y = linear(x, *map.weight, map.bias);
  if (map.pair.a != nullptr) {
    at::Tensor low = linear(x, *map.pair.a, nullptr);
    if (options_.adapter_scale != 1) low = low * options_.adapter_scale;
    y = y + linear(low, *map.pair.b, map.pair.bias);
  }
  return y;
}

at::Tensor TrainModel::norm(const Parameter& gain, const at::Tensor& x) const {
  return rms_norm(x, gain, config_.norm_plus_one, config_.norm_eps, compute_);
}

at::Tensor TrainModel::attention(const Block& block, const at::Tensor& h, std::int64_t batch) const {
  const at::Tensor x = norm(*block.input_norm, h);
  at::Tensor q = apply(block, Linear::q, x), k = apply(block, Linear::k, x), v = apply(block, Linear::v, x);
  if (block.q_norm != nullptr) {
    q = norm(*block.q_norm, q);
    k = norm(*block.k_norm, k);
  }
  const Angles& angles = angles_[block.type];
  q = rotary(q, angles.cosines, angles.sines, config_.heads);
  k = rotary(k, angles.cosines, angles.sines, config_.kv_heads);
  const AttentionType& type = config_.attention_types[block.type];
  const auto split = [&](const at::Tensor& y, std::int64_t heads) {
    return y.view({batch, positions_, heads, config_.head_dim});
  };
  const at::Tensor mixed =
      attend(split(q, config_.heads), split(k, config_.kv_heads), split(v, config_.kv_heads),
             config_.attention_scale, type.window, config_.attention_softcap);
  const at::Tensor update =
      apply(block, Linear::o, mixed.reshape({batch * positions_, config_.heads * config_.head_dim}));
  return block.attention_norm != nullptr ? norm(*block.attention_norm, update) : update;
}

at::Tensor TrainModel::feed_forward(const Block& block, const at::Tensor& h) const {
  const at::Tensor x = norm(*block.ffn_norm, h);
  const at::Tensor gated =
      activate(config_.activation, apply(block, Linear::gate, x)) * apply(block, Linear::up, x);
  const at::Tensor update = apply(block, Linear::down, gated);
  return block.ffn_out_norm != nullptr ? norm(*block.ffn_out_norm, update) : update;
}

void TrainModel::make_angles(std::int64_t positions) {
  if (positions == positions_) return;
  positions_ = positions;
  angles_.clear();
  const at::Tensor steps = at::arange(positions, at::kFloat);
  for (const AttentionType& type : config_.attention_types) {
    std::vector<float> frequencies = type.rope.frequencies;
    const at::Tensor turns = at::outer(
        steps, at::from_blob(frequencies.data(), static_cast<std::int64_t>(frequencies.size()), at::kFloat));
    angles_.push_back({turns.cos() * type.rope.attention_factor, turns.sin() * type.rope.attention_factor});
  }
}

at::Tensor TrainModel::forward(const at::Tensor& ids) {
  make_angles(ids.size(1));
  at::Tensor h = embed(ids.reshape(-1), *embedding_, config_.embedding_scale);
  for (const Block& block : blocks_) {
    h = h + attention(block, h, ids.size(0));
    h = h + feed_forward(block, h);
  }
  return norm(*final_norm_, h);
}

Checkpoint TrainModel::trained(const Checkpoint& original) const {
  Checkpoint result = original;
  for (const auto& [name, parameter] : parameters_) {
    if (!parameter.trainable()) continue;
    Tensor& target = result.tensors.at(name);
    const double scale = name.ends_with("lora_B.weight") ? options_.adapter_scale : 1;
    target = from_torch(parameter.master * scale, target.dtype == DType::f32 ? DType::f32 : DType::bf16);
  }
  return result;
}

}  // namespace fathom
