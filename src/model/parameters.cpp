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
  const std::int64_t layer = layer_parameters(config);
  count.layers = layer * checkpoint.plan.layers + config.hidden_size;
  count.unrolled = layer * checkpoint.plan.depth() + config.hidden_size;
  for (const auto& [name, tensor] : checkpoint.tensors) {
    count.bytes += static_cast<std::int64_t>(tensor.data.size());
    if (name.starts_with("model.adapters.")) count.adapters += tensor.elements();
  }
  for (const Visit& visit : checkpoint.plan.visits) {
    if (visit.adapter < 0) continue;
    const std::string prefix = adapter_name(visit.adapter, "");
    for (auto it = checkpoint.tensors.lower_bound(prefix);
         it != checkpoint.tensors.end() && it->first.starts_with(prefix); ++it)
      count.unrolled += it->second.elements();
  }
  return count;
}

std::int64_t relaxed_parameters(const ModelConfig& config, std::int64_t unique, std::int64_t depth,
                                std::int64_t rank) {
  std::int64_t count = 0;
  for (const Linear linear : all_linears) {
    const std::int64_t out = out_features(config, linear);
    const std::int64_t in = in_features(config, linear);
    count += unique * out * in + depth * std::min({rank, out, in}) * (out + in);
  }
  return count;
}

}  // namespace fathom
