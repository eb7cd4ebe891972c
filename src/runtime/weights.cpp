#include "runtime/weights.h"

#include <algorithm>
#include <span>
#include <string>

#include "base/threads.h"
#include "kernels/packed_matrix.h"

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

// Neighbours that are held in one type together.
std::vector<std::vector<LinearPart>> runs_of_one_type(const std::vector<LinearPart>& parts, Compute compute) {
  std::vector<std::vector<LinearPart>> runs;
  const auto type = [&](const LinearPart& part) { return resolved_type({&part, 1}, compute); };
  for (const LinearPart& part : parts) {
    if (runs.empty() || type(runs.back().front()) != type(part)) runs.emplace_back();
    runs.back().push_back(part);
  }
  return runs;
}

void gather_layer(const Checkpoint& checkpoint, std::int64_t layer, Compute compute, LayerWeights& weights,
                  std::vector<WeightToPack>& to_pack) {
  const auto part = [&](Linear linear) -> LinearPart {
    const std::string name = linear_name(linear);
    return {&checkpoint.layer_tensor(layer, name + ".weight"),
            has_bias(checkpoint.config, linear) ? &checkpoint.layer_tensor(layer, name + ".bias") : nullptr};
  };
  const LinearPart q = part(Linear::q), k = part(Linear::k), v = part(Linear::v);
  const std::vector<std::vector<LinearPart>> runs = runs_of_one_type({q, k, v}, compute);
  weights.qkv.resize(runs.size());
  for (std::size_t i = 0; i < runs.size(); ++i)
    to_pack.push_back({&weights.qkv[i], runs[i], /*gated=*/false, compute});
  to_pack.push_back({&weights.o, {part(Linear::o)}, false, compute});
  to_pack.push_back({&weights.gate_up, {part(Linear::gate), part(Linear::up)}, true, compute});
  to_pack.push_back({&weights.down, {part(Linear::down)}, false, compute});
  for (const auto& [norm, name] : norm_names(checkpoint.config))
    weights.norms[static_cast<std::size_t>(norm)] =
        norm_gain(checkpoint.config, checkpoint.layer_tensor(layer, name));
}

void gather_adapter(const Checkpoint& checkpoint, std::int64_t adapter, Compute compute,
                    AdapterWeights& weights, std::vector<WeightToPack>& to_pack) {
  for (const Linear linear : all_linears) {
    const std::string name = linear_name(linear);
    const Tensor* a = checkpoint.adapter_tensor(adapter, name + ".lora_A.weight");
    const Tensor* b = checkpoint.adapter_tensor(adapter, name + ".lora_B.weight");
    if (a == nullptr || b == nullptr) continue;
    auto& pair = weights.pairs[static_cast<std::size_t>(linear)];
    to_pack.push_back({&pair.a, {{a}}, false, compute});
    to_pack.push_back(
        {&pair.b, {{b, checkpoint.adapter_tensor(adapter, name + ".lora_B.bias")}}, false, compute});
  }
  for (const auto& [norm, name] : norm_names(checkpoint.config))
    if (const Tensor* tensor = checkpoint.adapter_tensor(adapter, name))
      weights.norms[static_cast<std::size_t>(norm)] = norm_gain(checkpoint.config, *tensor);
}

void gather_exit(const Checkpoint& checkpoint, std::int64_t visit, Compute compute, ExitWeights& weights,
                 std::vector<WeightToPack>& to_pack) {
  const Tensor* whole = checkpoint.exit_tensor(visit, "translator.weight");
  const Tensor* a = checkpoint.exit_tensor(visit, "translator.lora_A.weight");
  if (a != nullptr) {
    to_pack.push_back({&weights.translator.a, {{a}}, false, compute});
    whole = checkpoint.exit_tensor(visit, "translator.lora_B.weight");
  }
  if (whole != nullptr)
    to_pack.push_back(
        {&weights.translator.b, {{whole, checkpoint.exit_tensor(visit, "translator.bias")}}, false, compute});
  if (const Tensor* gate = checkpoint.exit_tensor(visit, "gate.weight")) {
    weights.gate = decode(*gate);
    weights.gate_bias = decode(*checkpoint.exit_tensor(visit, "gate.bias")).front();
  }
}

// Rows of a matrix as one of its own.
Tensor rows_of(const Tensor& matrix, std::span<const std::int64_t> rows) {
  const auto width = static_cast<std::size_t>(matrix.row_elements());
  std::vector<float> values(rows.size() * width);
  for (std::size_t i = 0; i < rows.size(); ++i)
    decode_rows(matrix, rows[i], 1, std::span(values).subspan(i * width, width));
  return make_tensor(written_type(matrix.dtype, DType::bf16), {std::ssize(rows), matrix.row_elements()},
                     values);
}

// The head decides between tokens that are close to each other: it keeps 8 bits where layers have 4.
Compute head_type(Compute compute) {
  if (compute == Compute::int4) return Compute::int8;
  return is_grouped(compute) ? Compute::int8_groups : compute;
}

}  // namespace

Compute row_type(const Weights& weights) {
  const auto is_float = [](const std::unique_ptr<PackedLinear>& linear) {
    return linear->type == Compute::f32;
  };
  for (const LayerWeights& layer : weights.layers)
    if (std::ranges::any_of(layer.qkv, is_float) || is_float(layer.o) || is_float(layer.gate_up) ||
        is_float(layer.down))
      return Compute::f32;
  return Compute::bf16;
}

void embed(const ModelConfig& config, const Tensor& embedding, std::span<const Token> tokens, float* hidden) {
  const auto width = static_cast<std::size_t>(config.hidden_size);
  const auto scale = static_cast<float>(config.embedding_scale);
  parallel_for(std::ssize(tokens), [&](std::int64_t i) {
    const std::span row(hidden + static_cast<std::size_t>(i) * width, width);
    decode_rows(embedding, tokens[static_cast<std::size_t>(i)], 1, row);
    if (scale != 1)
      for (float& h : row) h *= scale;
  });
}

Weights pack_weights(const Checkpoint& checkpoint, const Backend& backend, Compute compute,
                     const PackedCache& cache) {
  Weights weights;
  weights.layers.resize(static_cast<std::size_t>(checkpoint.plan.layers));
  weights.adapters.resize(static_cast<std::size_t>(checkpoint.plan.adapters()));
  std::vector<WeightToPack> to_pack;
  for (std::size_t layer = 0; layer < weights.layers.size(); ++layer)
    gather_layer(checkpoint, static_cast<std::int64_t>(layer), compute, weights.layers[layer], to_pack);
  const Compute small = compute == Compute::f32 ? compute : Compute::bf16;
  for (std::size_t adapter = 0; adapter < weights.adapters.size(); ++adapter)
    gather_adapter(checkpoint, static_cast<std::int64_t>(adapter), small, weights.adapters[adapter], to_pack);
  weights.exits.resize(static_cast<std::size_t>(checkpoint.plan.depth()));
  for (std::size_t visit = 0; visit < weights.exits.size(); ++visit)
    gather_exit(checkpoint, static_cast<std::int64_t>(visit), small, weights.exits[visit], to_pack);
  weights.embedding = checkpoint.tensor("model.embed_tokens.weight");
  weights.final_norm = norm_gain(checkpoint.config, checkpoint.tensor("model.norm.weight"));
  to_pack.push_back({&weights.head, {{&checkpoint.head()}}, false, head_type(compute)});
  pack_or_view(to_pack, backend, cache);
  weights.shortlist = checkpoint.shortlist();
  if (!weights.shortlist.empty()) {
    const Tensor rows = rows_of(checkpoint.head(), weights.shortlist);
    const LinearPart part = {&rows};
    weights.short_head = backend.pack({&part, 1}, head_type(compute));
  }
  return weights;
}

std::int64_t Weights::bytes() const {
  std::int64_t total = head->bytes;
  for (const LayerWeights& layer : layers) {
    for (const auto& part : layer.qkv) total += part->bytes;
    total += layer.o->bytes + layer.gate_up->bytes + layer.down->bytes;
  }
  for (const AdapterWeights& adapter : adapters)
    for (const auto& [a, b] : adapter.pairs)
      if (a != nullptr) total += a->bytes + b->bytes;
  for (const ExitWeights& exit : exits)
    for (const auto* part : {&exit.translator.a, &exit.translator.b})
      if (*part != nullptr) total += (*part)->bytes;
  if (short_head != nullptr) total += short_head->bytes;
  return total;
}

}  // namespace fathom
