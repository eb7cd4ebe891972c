// Counting: what `inspect` shows and `--target` compares.
#include <algorithm>

#include "model/checkpoint.h"

namespace fathom {
namespace {

std::int64_t layer_parameters(const ModelConfig& config) {
  std::int64_t count = 0;
  for (const NormInfo& norm : layer_norms(config)) count += norm.width;
  for (const Linear linear : all_linears) {
    count += out_features(config, linear) * in_features(config, linear);
    if (has_bias(config, linear)) count += out_features(config, linear);
  }
  return count;
}

}  // namespace

ParameterCount count_parameters(const Checkpoint& checkpoint) {
  const ModelConfig& config = checkpoint.config;
  ParameterCount count;
  count.embedding = config.vocab_size * config.hidden_size * (config.tied_embeddings ? 1 : 2);
  count.layers = layer_parameters(config) * checkpoint.plan.layers + config.hidden_size;
  for (const auto& [name, tensor] : checkpoint.tensors) {
    count.bytes += static_cast<std::int64_t>(tensor.data.size());
    if (name.starts_with("model.adapters.")) count.adapters += tensor.elements();
  }
  for (const auto& [name, tensor] : checkpoint.exits) {
    count.bytes += static_cast<std::int64_t>(tensor.data.size());
    if (name != shortlist_name) count.exits += tensor.elements();
  }
  count.unrolled = config.hidden_size;
  for (const Visit& visit : checkpoint.plan.visits) count.unrolled += visit_parameters(checkpoint, visit);
  return count;
}

std::int64_t visit_parameters(const Checkpoint& checkpoint, const Visit& visit) {
  std::int64_t count = layer_parameters(checkpoint.config);
  if (visit.adapter < 0) return count;
  const std::string prefix = adapter_name(visit.adapter, "");
  for (auto it = checkpoint.tensors.lower_bound(prefix);
       it != checkpoint.tensors.end() && it->first.starts_with(prefix); ++it)
    count += it->second.elements();
  return count;
}

std::int64_t relaxed_parameters(const ModelConfig& config, std::int64_t unique, std::int64_t depth,
                                std::int64_t rank) {
  std::int64_t count = 0;
  for (const Linear linear : all_linears) {
    if (linear == Linear::gate && !config.gated) continue;
    const std::int64_t out = out_features(config, linear);
    const std::int64_t in = in_features(config, linear);
    count += unique * out * in + depth * std::min({rank, out, in}) * (out + in);
  }
  return count;
}

}  // namespace fathom
