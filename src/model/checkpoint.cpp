#include "model/checkpoint.h"

#include <algorithm>
#include <charconv>
#include <map>
#include <string_view>

#include "base/error.h"

namespace fathom {
namespace {

constexpr std::string_view adapter_prefix = "model.adapters.";

/// The file that a message about tensors speaks of.
std::string weights_file(const Checkpoint& checkpoint) {
  const std::filesystem::path& source = checkpoint.source;
  if (!std::filesystem::is_directory(source)) return source.string();
  const std::filesystem::path index = source / "model.safetensors.index.json";
  return (std::filesystem::exists(index) ? index : source / "model.safetensors").string();
}

/// Name and shape of every tensor that the configuration and the plan's layers need, adapters apart.
std::map<std::string, Shape, std::less<>> expected_tensors(const Checkpoint& checkpoint) {
  const ModelConfig& config = checkpoint.config;
  std::map<std::string, Shape, std::less<>> expected{
      {"model.embed_tokens.weight", {config.vocab_size, config.hidden_size}},
      {"model.norm.weight", {config.hidden_size}}};
  if (!config.tied_embeddings) expected["lm_head.weight"] = {config.vocab_size, config.hidden_size};
  const std::vector<NormInfo> norms = layer_norms(config);
  for (std::int64_t layer = 0; layer < checkpoint.plan.layers; layer++) {
    for (const NormInfo& norm : norms) expected[layer_name(layer, norm.name + ".weight")] = {norm.width};
    for (const Linear linear : all_linears) {
      const std::string name = layer_name(layer, linear_name(linear));
      expected[name + ".weight"] = {out_features(config, linear), in_features(config, linear)};
      if (has_bias(config, linear)) expected[name + ".bias"] = {out_features(config, linear)};
    }
  }
  return expected;
}

void check_shape(const Checkpoint& checkpoint, const std::string& name, const Tensor& tensor,
                 const Shape& expected) {
  if (tensor.shape != expected)
    fail("{}: tensor '{}' has shape {}, expected {} by the configuration", weights_file(checkpoint), name,
         to_string(tensor.shape), to_string(expected));
}

/// One tensor "model.adapters.A.NAME.KIND.weight": a known matrix or norm, of the widths that matrix has,
/// with its partner.
void check_adapter(const Checkpoint& checkpoint, const std::string& name, const Tensor& tensor) {
  const std::string_view rest = std::string_view(name).substr(adapter_prefix.size());
  std::int64_t index = -1;
  const auto [end, status] = std::from_chars(rest.data(), rest.data() + rest.size(), index);
  const auto digits = static_cast<std::size_t>(end - rest.data());
  if (status != std::errc() || index < 0 || index >= checkpoint.plan.adapters() || digits >= rest.size() ||
      rest[digits] != '.')
    fail("{}: tensor '{}' belongs to no adapter of the plan (which has {})", weights_file(checkpoint), name,
         checkpoint.plan.adapters());
  const std::string_view part = rest.substr(digits + 1);
  for (const NormInfo& norm : layer_norms(checkpoint.config))
    if (part == norm.name + ".weight") return check_shape(checkpoint, name, tensor, {norm.width});
  for (const Linear linear : all_linears) {
    const std::string base = linear_name(linear);
    if (part == base + ".lora_B.bias" && checkpoint.adapter_tensor(index, base + ".lora_B.weight") != nullptr)
      return check_shape(checkpoint, name, tensor, {out_features(checkpoint.config, linear)});
    const bool down = part == base + ".lora_A.weight";
    if (!down && part != base + ".lora_B.weight") continue;
    if (tensor.shape.size() != 2)
      fail("{}: tensor '{}' has shape {}, expected a matrix", weights_file(checkpoint), name,
           to_string(tensor.shape));
    const std::int64_t rank = tensor.shape[down ? 0 : 1];
    check_shape(checkpoint, name, tensor,
                down ? Shape{rank, in_features(checkpoint.config, linear)}
                     : Shape{out_features(checkpoint.config, linear), rank});
    const Tensor* other =
        checkpoint.adapter_tensor(index, base + (down ? ".lora_B.weight" : ".lora_A.weight"));
    if (other == nullptr || other->shape.size() != 2 || other->shape[down ? 1 : 0] != rank || rank < 1)
      fail("{}: tensor '{}' of rank {} has no partner of the same rank ({} is {})", weights_file(checkpoint),
           name, rank, down ? "lora_B" : "lora_A", other == nullptr ? "missing" : to_string(other->shape));
    return;
  }
  fail("{}: tensor '{}' names no matrix or norm of a layer", weights_file(checkpoint), name);
}

}  // namespace

const Tensor* Checkpoint::find(const std::string& name) const {
  const auto found = tensors.find(name);
  return found == tensors.end() ? nullptr : &found->second;
}

const Tensor& Checkpoint::tensor(const std::string& name) const {
  const Tensor* found = find(name);
  if (found == nullptr) fail("{}: tensor '{}' is missing", weights_file(*this), name);
  return *found;
}

const Tensor& Checkpoint::layer_tensor(std::int64_t layer, const std::string& name) const {
  return tensor(layer_name(layer, name));
}

const Tensor* Checkpoint::adapter_tensor(std::int64_t adapter, const std::string& name) const {
  return find(adapter_name(adapter, name));
}

const Tensor& Checkpoint::head() const {
  return tensor(config.tied_embeddings ? "model.embed_tokens.weight" : "lm_head.weight");
}

std::string layer_name(std::int64_t layer, const std::string& name) {
  return fmt::format("model.layers.{}.{}", layer, name);
}

std::string adapter_name(std::int64_t adapter, const std::string& name) {
  return fmt::format("{}{}.{}", adapter_prefix, adapter, name);
}

void validate(const Checkpoint& checkpoint) {
  const auto expected = expected_tensors(checkpoint);
  for (const auto& [name, shape] : expected) check_shape(checkpoint, name, checkpoint.tensor(name), shape);
  for (const auto& [name, tensor] : checkpoint.tensors) {
    if (std::string_view(name).starts_with(adapter_prefix)) {
      check_adapter(checkpoint, name, tensor);
    } else if (expected.find(name) == expected.end()) {
      fail(
          "{}: tensor '{}' is not part of a '{}' with {} layers as its configuration describes it; Fathom "
          "would "
          "leave it out and compute something else",
          weights_file(checkpoint), name, checkpoint.config.architecture, checkpoint.plan.layers);
    }
  }
}

}  // namespace fathom
