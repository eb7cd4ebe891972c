#include "runtime/weights.h"

#include <string>

#include "base/file.h"

namespace fathom {
namespace {

struct NormName {
  Norm norm;
  const char* name;
};

std::vector<NormName> norm_names(const ModelConfig& config) {
  std::vector<NormName> names = {{Norm::attention, "input_layernorm.weight"}};
  if (config.sandwich_norms) {
    names.push_back({Norm::attention_post, "post_attention_layernorm.weight"});
    names.push_back({Norm::ffn, "pre_feedforward_layernorm.weight"});
    names.push_back({Norm::ffn_post, "post_feedforward_layernorm.weight"});
  } else {
    names.push_back({Norm::ffn, "post_attention_layernorm.weight"});
  }
  if (config.qk_norm) {
    names.push_back({Norm::q, "self_attn.q_norm.weight"});
    names.push_back({Norm::k, "self_attn.k_norm.weight"});
  }
  return names;
}

std::vector<float> norm_gain(const ModelConfig& config, const Tensor& tensor) {
  std::vector<float> gain = decode(tensor);
  if (config.norm_plus_one)
    for (float& g : gain) g += 1.0F;
  return gain;
}

LayerWeights pack_layer(const Checkpoint& checkpoint, std::int64_t layer, const Backend& backend,
                        Compute compute) {
  const auto part = [&](Linear linear) -> LinearPart {
    const std::string name = linear_name(linear);
    return {&checkpoint.layer_tensor(layer, name + ".weight"),
            has_bias(checkpoint.config, linear) ? &checkpoint.layer_tensor(layer, name + ".bias") : nullptr};
  };
  LayerWeights weights;
  weights.qkv = backend.pack(std::array{part(Linear::q), part(Linear::k), part(Linear::v)}, compute);
  weights.o = backend.pack(std::array{part(Linear::o)}, compute);
  weights.gate_up = backend.pack_gated(part(Linear::gate), part(Linear::up), compute);
  weights.down = backend.pack(std::array{part(Linear::down)}, compute);
  for (const auto& [norm, name] : norm_names(checkpoint.config))
    weights.norms[static_cast<std::size_t>(norm)] =
        norm_gain(checkpoint.config, checkpoint.layer_tensor(layer, name));
  return weights;
}

AdapterWeights pack_adapter(const Checkpoint& checkpoint, std::int64_t adapter, const Backend& backend,
                            Compute compute) {
  AdapterWeights weights;
  for (const Linear linear : all_linears) {
    const std::string name = linear_name(linear);
    const Tensor* a = checkpoint.adapter_tensor(adapter, name + ".lora_A.weight");
    const Tensor* b = checkpoint.adapter_tensor(adapter, name + ".lora_B.weight");
    if (a == nullptr || b == nullptr) continue;
    weights.pairs[static_cast<std::size_t>(linear)] = {
        backend.pack(std::array{LinearPart{a}}, compute),
        backend.pack(std::array{LinearPart{b, checkpoint.adapter_tensor(adapter, name + ".lora_B.bias")}},
                     compute)};
  }
  for (const auto& [norm, name] : norm_names(checkpoint.config))
    if (const Tensor* tensor = checkpoint.adapter_tensor(adapter, name))
      weights.norms[static_cast<std::size_t>(norm)] = norm_gain(checkpoint.config, *tensor);
  return weights;
}

// The head decides between tokens that are close to each other: it keeps 8 bits where layers have 4.
Compute head_type(Compute compute) {
  if (compute == Compute::int4) return Compute::int8;
  return compute == Compute::int4_groups ? Compute::int8_groups : compute;
}

}  // namespace

Weights pack_weights(const Checkpoint& checkpoint, const Backend& backend, Compute compute) {
  Weights weights;
  weights.layers.reserve(static_cast<std::size_t>(checkpoint.plan.layers));
  for (std::int64_t layer = 0; layer < checkpoint.plan.layers; ++layer) {
    weights.layers.push_back(pack_layer(checkpoint, layer, backend, compute));
    for (const Linear linear : all_linears)
      release_pages(checkpoint.layer_tensor(layer, std::string(linear_name(linear)) + ".weight").data);
  }
  for (std::int64_t adapter = 0; adapter < checkpoint.plan.adapters(); ++adapter)
    weights.adapters.push_back(
        pack_adapter(checkpoint, adapter, backend, compute == Compute::f32 ? compute : Compute::bf16));
  weights.embedding = checkpoint.tensor("model.embed_tokens.weight");
  weights.final_norm = norm_gain(checkpoint.config, checkpoint.tensor("model.norm.weight"));
  weights.head = backend.pack(std::array{LinearPart{&checkpoint.head()}}, head_type(compute));
  release_pages(checkpoint.head().data);
  return weights;
}

std::int64_t Weights::bytes() const {
  std::int64_t total = head->bytes;
  for (const LayerWeights& layer : layers)
    total += layer.qkv->bytes + layer.o->bytes + layer.gate_up->bytes + layer.down->bytes;
  for (const AdapterWeights& adapter : adapters)
    for (const auto& [a, b] : adapter.pairs)
      if (a != nullptr) total += a->bytes + b->bytes;
  return total;
}

}  // namespace fathom
