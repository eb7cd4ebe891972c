#include "model/checkpoint.h"

#include <algorithm>
#include <charconv>
#include <cmath>
#include <functional>
#include <map>
#include <span>
#include <string_view>

#include "base/error.h"

namespace fathom {
namespace {

using Expected = std::map<std::string, Shape, std::less<>>;

constexpr std::string_view adapter_prefix = "model.adapters.";
constexpr std::string_view exit_prefix = "model.exits.";

/// The file that a message about tensors speaks of.
std::string weights_file(const Checkpoint& checkpoint) {
  const std::filesystem::path& source = checkpoint.source;
  if (!std::filesystem::is_directory(source)) return source.string();
  const std::filesystem::path index = source / "model.safetensors.index.json";
  return (std::filesystem::exists(index) ? index : source / "model.safetensors").string();
}

/// Name and shape of every tensor that the configuration and the plan's layers need, adapters apart.
Expected expected_tensors(const Checkpoint& checkpoint) {
  const ModelConfig& config = checkpoint.config;
  Expected expected{{"model.embed_tokens.weight", {config.vocab_size, config.hidden_size}},
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

/// How much two names have in common, from both ends.
std::size_t likeness(std::string_view a, std::string_view b) {
  const auto [begin, ignored] = std::ranges::mismatch(a, b);
  const auto same = static_cast<std::size_t>(begin - a.begin());
  a.remove_prefix(same);
  b.remove_prefix(same);
  const auto [end, ignored_too] = std::ranges::mismatch(a.rbegin(), a.rend(), b.rbegin(), b.rend());
  return same + static_cast<std::size_t>(end - a.rbegin());
}

/// Says of a tensor that is not there what is there instead.
[[noreturn]] void fail_missing(const Checkpoint& checkpoint, const Expected& expected,
                               const std::string& name) {
  const std::string file = weights_file(checkpoint);
  if (const auto found = checkpoint.left_out.find(name); found != checkpoint.left_out.end())
    fail("{}: tensor '{}' {}", file, name, found->second);
  std::vector<std::string_view> others;
  for (const auto& [other, tensor] : checkpoint.tensors)
    if (!expected.contains(other) && !other.starts_with(adapter_prefix)) others.push_back(other);
  for (const auto& [other, reason] : checkpoint.left_out)
    if (!expected.contains(other)) others.push_back(other);
  std::ranges::stable_sort(others, std::greater(), [&](auto other) { return likeness(name, other); });
  constexpr std::size_t most_shown = 3;
  std::string instead;
  for (const std::string_view other : std::span(others).first(std::min(others.size(), most_shown)))
    instead +=
        fmt::format("{} '{}'", instead.empty() ? "; what such a model does not have is there:" : ",", other);
  if (others.size() > most_shown) instead += fmt::format(" and {} more", others.size() - most_shown);
  if (name == "lm_head.weight")
    instead += "; if the head is the embedding, let tie_word_embeddings in config.json be true";
  fail("{}: tensor '{}' is missing{}", file, name, instead);
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

[[noreturn]] void fail_exit(const Checkpoint& checkpoint, const std::string& name, const std::string& why) {
  fail("{}: tensor '{}' {}; `fathom exits` writes that file anew", (checkpoint.source / exits_file).string(),
       name, why);
}

void check_exit_shape(const Checkpoint& checkpoint, const std::string& name, const Tensor& tensor,
                      const Shape& expected) {
  if (tensor.shape != expected)
    fail_exit(checkpoint, name,
              fmt::format("has shape {}, expected {}", to_string(tensor.shape), to_string(expected)));
}

void check_shortlist(const Checkpoint& checkpoint, const std::string& name, const Tensor& tensor) {
  if (tensor.shape.size() != 1 || tensor.elements() < 1)
    fail_exit(checkpoint, name, "has shape " + to_string(tensor.shape) + ", expected a list of tokens");
  float before = -1;
  for (const float token : decode(tensor)) {
    const bool whole = token == std::floor(token);
    if (!whole || token <= before || token >= static_cast<float>(checkpoint.config.vocab_size))
      fail_exit(checkpoint, name,
                fmt::format("has {} after {}, expected ascending tokens below {}", token, before,
                            checkpoint.config.vocab_size));
    before = token;
  }
}

/// One tensor "model.exits.V.NAME", with those that it does not mean anything without.
void check_exit(const Checkpoint& checkpoint, const std::string& name, const Tensor& tensor) {
  const DepthPlan& plan = checkpoint.plan;
  const std::string_view rest = std::string_view(name).substr(std::min(exit_prefix.size(), name.size()));
  std::int64_t visit = -1;
  const auto [end, status] = std::from_chars(rest.data(), rest.data() + rest.size(), visit);
  const auto digits = static_cast<std::size_t>(end - rest.data());
  if (!name.starts_with(exit_prefix) || status != std::errc() || digits >= rest.size() || rest[digits] != '.')
    fail_exit(checkpoint, name, "belongs to no exit");
  if (visit < 0 || visit >= plan.depth() || !plan.visits[static_cast<std::size_t>(visit)].exit)
    fail_exit(checkpoint, name, fmt::format("belongs to visit {}, which is no exit of the plan", visit));
  const std::string part(rest.substr(digits + 1));
  const std::int64_t width = checkpoint.config.hidden_size;
  const auto with = [&](const std::string& partner) {
    const Tensor* other = checkpoint.exit_tensor(visit, partner);
    if (other == nullptr) fail_exit(checkpoint, name, "is there without " + exit_name(visit, partner));
    return other;
  };
  if (part == "gate.bias") {
    with("gate.weight");
    return check_exit_shape(checkpoint, name, tensor, {1});
  }
  if (part == "gate.weight") {
    with("gate.bias");
    return check_exit_shape(checkpoint, name, tensor, {1, width});
  }
  if (part == "translator.bias") {
    if (checkpoint.exit_tensor(visit, "translator.weight") == nullptr) with("translator.lora_B.weight");
    return check_exit_shape(checkpoint, name, tensor, {width});
  }
  with("translator.bias");
  if (part == "translator.weight") return check_exit_shape(checkpoint, name, tensor, {width, width});
  const bool down = part == "translator.lora_A.weight";
  if (!down && part != "translator.lora_B.weight") fail_exit(checkpoint, name, "is no part of an exit");
  const Tensor* other = with(down ? "translator.lora_B.weight" : "translator.lora_A.weight");
  const std::int64_t rank = tensor.shape.size() == 2 ? tensor.shape[down ? 0 : 1] : 0;
  check_exit_shape(checkpoint, name, tensor, down ? Shape{rank, width} : Shape{width, rank});
  if (rank < 1 || other->shape.size() != 2 || other->shape[down ? 1 : 0] != rank)
    fail_exit(checkpoint, name, fmt::format("of rank {} has no partner of the same rank", rank));
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

const Tensor* Checkpoint::exit_tensor(std::int64_t visit, const std::string& name) const {
  const auto found = exits.find(exit_name(visit, name));
  return found == exits.end() ? nullptr : &found->second;
}

std::vector<std::int64_t> Checkpoint::shortlist() const {
  const auto found = exits.find(shortlist_name);
  if (found == exits.end()) return {};
  const std::vector<float> tokens = decode(found->second);
  return {tokens.begin(), tokens.end()};
}

std::string layer_name(std::int64_t layer, const std::string& name) {
  return fmt::format("model.layers.{}.{}", layer, name);
}

std::string adapter_name(std::int64_t adapter, const std::string& name) {
  return fmt::format("{}{}.{}", adapter_prefix, adapter, name);
}

std::string exit_name(std::int64_t visit, const std::string& name) {
  return fmt::format("{}{}.{}", exit_prefix, visit, name);
}

void validate(const Checkpoint& checkpoint) {
  const auto expected = expected_tensors(checkpoint);
  for (const auto& [name, shape] : expected) {
    const Tensor* tensor = checkpoint.find(name);
    if (tensor == nullptr) fail_missing(checkpoint, expected, name);
    check_shape(checkpoint, name, *tensor, shape);
  }
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
  for (const auto& [name, tensor] : checkpoint.exits)
    name == shortlist_name ? check_shortlist(checkpoint, name, tensor) : check_exit(checkpoint, name, tensor);
}

}  // namespace fathom
