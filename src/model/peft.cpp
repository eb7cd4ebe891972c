#include "model/peft.h"

#include <algorithm>
#include <charconv>
#include <cmath>
#include <map>
#include <optional>
#include <string_view>

#include "base/error.h"
#include "base/file.h"
#include "formats/safetensors.h"
#include "model/staging.h"

namespace fathom {
namespace {

namespace fs = std::filesystem;

constexpr const char* config_name = "adapter_config.json";
constexpr const char* weights_name = "adapter_model.safetensors";
constexpr std::string_view prefix = "base_model.model.";
constexpr const char* remedy = "merge the adapters with --to hf or gguf";

std::string module_name(std::int64_t layer, Linear linear) { return layer_name(layer, linear_name(linear)); }

/// The pairs of a model, by module ("model.layers.3.self_attn.q_proj").
struct Pair {
  const Tensor *a, *b, *bias;
  Linear linear;
};
using Pairs = std::map<std::string, Pair>;

Pairs pairs_of(const Checkpoint& checkpoint) {
  const std::string source = checkpoint.source.string();
  const DepthPlan& plan = checkpoint.plan;
  if (plan.adapters() == 0) fail("{}: has no adapters", source);
  if (plan.is_recursive())
    fail("{}: several visits share a layer ({}), and PEFT has one adapter a layer: {}", source,
         plan.describe(), remedy);
  Pairs pairs;
  for (const Visit& visit : plan.visits) {
    for (const NormInfo& norm : layer_norms(checkpoint.config))
      if (checkpoint.adapter_tensor(visit.adapter, norm.name + ".weight") != nullptr)
        fail("{}: a visit of layer {} has a norm of its own ({}), which LoRA has no words for: {}", source,
             visit.layer, norm.name, remedy);
    for (const Linear linear : all_linears) {
      const auto part = [&](const char* name) {
        return checkpoint.adapter_tensor(visit.adapter, std::string(linear_name(linear)) + name);
      };
      if (part(".lora_A.weight") != nullptr)
        pairs[module_name(visit.layer, linear)] = {part(".lora_A.weight"), part(".lora_B.weight"),
                                                   part(".lora_B.bias"), linear};
    }
  }
  return pairs;
}

/// "q_proj" where every layer has a pair for it, else the modules one by one.
Json target_modules(const Pairs& pairs, std::int64_t layers) {
  std::map<Linear, std::int64_t> counts;
  for (const auto& [name, pair] : pairs) ++counts[pair.linear];
  Json targets = Json::array();
  for (const auto& [linear, count] : counts)
    if (count == layers) {
      const std::string_view name = linear_name(linear);
      targets.push_back(name.substr(name.find('.') + 1));
    }
  for (const auto& [name, pair] : pairs)
    if (counts[pair.linear] != layers) targets.push_back(name);
  return targets;
}

Json config_of(const Checkpoint& checkpoint, const Pairs& pairs) {
  std::map<std::int64_t, std::int64_t> ranks;
  for (const auto& [name, pair] : pairs) ++ranks[pair.a->rows()];
  const std::int64_t rank =
      std::ranges::max_element(ranks, {}, [](const auto& entry) { return entry.second; })->first;
  Json others = Json::object();
  for (const auto& [name, pair] : pairs)
    if (pair.a->rows() != rank) others[name] = pair.a->rows();
  const auto biased =
      std::ranges::count_if(pairs, [](const auto& entry) { return entry.second.bias != nullptr; });
  if (biased != 0 && biased != std::ssize(pairs))
    fail("{}: some adapters have a bias and others do not, which PEFT's lora_bias cannot say: {}",
         checkpoint.source.string(), remedy);
  const Json base =
      checkpoint.hf_config.contains("_name_or_path") ? checkpoint.hf_config["_name_or_path"] : "";
  return {{"peft_type", "LORA"},
          {"task_type", "CAUSAL_LM"},
          {"base_model_name_or_path", base},
          {"r", rank},
          {"lora_alpha", rank},
          {"rank_pattern", others},
          {"alpha_pattern", others},
          {"target_modules", target_modules(pairs, checkpoint.plan.layers)},
          {"lora_dropout", 0.0},
          {"bias", "none"},
          {"lora_bias", biased != 0},
          {"fan_in_fan_out", false},
          {"inference_mode", true}};
}

/// What one adapter is scaled by, as PEFT computes it from its configuration.
class Scales {
 public:
  explicit Scales(const JsonObject& config) : config_(config) {
    if (const std::string type = config.string("peft_type"); type != "LORA")
      fail("{} is '{}': expected LORA", config.field("peft_type"), type);
    for (const char* key : {"use_dora", "fan_in_fan_out"})
      if (config.boolean_or(key, false)) fail("{} is true, which is not supported", config.field(key));
    if (config.string_or("bias", "none") != "none")
      fail("{} is '{}': trained biases are not supported (expected none)", config.field("bias"),
           config.string("bias"));
    if (config.has("modules_to_save") && !config.at("modules_to_save").empty())
      fail("{} is set: only adapters are read, no whole modules", config.field("modules_to_save"));
  }

  double of(const std::string& module, std::int64_t rank) const {
    const double alpha = pattern("alpha_pattern", module).value_or(config_.number_or("lora_alpha", 8));
    const auto size = static_cast<double>(rank);
    return alpha / (config_.boolean_or("use_rslora", false) ? std::sqrt(size) : size);
  }

 private:
  /// Keys are ends of modules' names. (PEFT takes them for regular expressions, which nobody writes but
  /// itself.)
  std::optional<double> pattern(const char* key, const std::string& module) const {
    const auto patterns = config_.object_if(key);
    if (!patterns) return std::nullopt;
    for (const auto& [end, value] : patterns->raw().items()) {
      if (end.find_first_of("^$*+?()[]{}|\\") != std::string::npos)
        fail("{} is a regular expression, which is not supported; name the modules", patterns->field(end));
      if (module == end || module.ends_with("." + end)) return patterns->number(end);
    }
    return std::nullopt;
  }

  JsonObject config_;
};

/// "base_model.model.model.layers.3.self_attn.q_proj.lora_A.weight" cut in layer and "self_attn.q_proj", and
/// the rest.
struct AdapterName {
  std::int64_t layer = -1;
  std::string map, part;
};

std::optional<AdapterName> parse_name(std::string_view name) {
  constexpr std::string_view layers = "model.layers.";
  if (!name.starts_with(prefix)) return std::nullopt;
  name.remove_prefix(prefix.size());
  if (!name.starts_with(layers)) return std::nullopt;
  name.remove_prefix(layers.size());
  AdapterName result;
  const auto [end, status] = std::from_chars(name.data(), name.data() + name.size(), result.layer);
  const auto digits = static_cast<std::size_t>(end - name.data());
  const std::size_t part = name.find(".lora_");
  if (status != std::errc() || part == std::string_view::npos || part <= digits) return std::nullopt;
  result.map = name.substr(digits + 1, part - digits - 1);
  result.part = name.substr(part);
  return result;
}

}  // namespace

void check_peft_target(const fs::path& directory, bool overwrite) {
  if (directory.empty()) fail_usage("the directory to write has no name");
  if (!fs::exists(directory)) return;
  if (!fs::is_directory(directory)) fail("{}: is a file, expected a new directory", directory.string());
  if (fs::is_empty(directory)) return;
  if (!fs::exists(directory / config_name))
    fail("{}: holds other files than PEFT's adapters; take a new or empty directory", directory.string());
  if (!overwrite) fail("{}: holds adapters already; give --overwrite to replace them", directory.string());
}

void save_peft(const Checkpoint& checkpoint, const fs::path& directory, bool overwrite) {
  validate(checkpoint);
  check_peft_target(directory, overwrite);
  const Pairs pairs = pairs_of(checkpoint);
  std::vector<std::pair<std::string, Tensor>> tensors;
  for (const auto& [name, pair] : pairs) {
    const std::string module = std::string(prefix) + name;
    tensors.emplace_back(module + ".lora_A.weight", *pair.a);
    tensors.emplace_back(module + ".lora_B.weight", *pair.b);
    if (pair.bias != nullptr) tensors.emplace_back(module + ".lora_B.bias", *pair.bias);
  }
  fs::path target = fs::absolute(directory).lexically_normal();
  if (!target.has_filename()) target = target.parent_path();
  const Staging staging(target);
  fs::create_directories(staging.path());
  write_file(staging.path() / config_name, config_of(checkpoint, pairs).dump(2) + "\n");
  write_safetensors(staging.path() / weights_name, tensors);
  fs::create_directories(target);
  // The configuration last: without it there are no adapters.
  fs::rename(staging.path() / weights_name, target / weights_name);
  fs::rename(staging.path() / config_name, target / config_name);
}

Checkpoint with_peft(const Checkpoint& model, const fs::path& directory) {
  if (!model.plan.is_plain())
    fail("{}: PEFT's adapters are for a plain model, and this one's plan is {}", model.source.string(),
         model.plan.describe());
  const fs::path file = directory / config_name;
  const Json json = read_json(file);
  const Scales scales(JsonObject(json, file.string()));
  Checkpoint result = model;
  for (std::int64_t i = 0; i < result.plan.depth(); ++i)
    result.plan.visits[static_cast<std::size_t>(i)].adapter = i;
  const fs::path weights = directory / weights_name;
  const TensorMap tensors = read_safetensors(weights);
  for (const auto& [name, tensor] : tensors) {
    const auto parsed = parse_name(name);
    if (!parsed) fail("{}: tensor '{}' is no adapter of a layer's matrix", weights.string(), name);
    Tensor scaled = tensor;
    if (parsed->part.starts_with(".lora_B.")) {
      const std::string down = name.substr(0, name.find(".lora_B.")) + ".lora_A.weight";
      const auto a = tensors.find(down);
      if (a == tensors.end()) fail("{}: tensor '{}' is missing", weights.string(), down);
      const double scale = scales.of(layer_name(parsed->layer, parsed->map), a->second.rows());
      std::vector<float> values = decode(tensor);
      for (float& value : values) value = static_cast<float>(value * scale);
      scaled = make_tensor(DType::f32, tensor.shape, values);
    }
    result.tensors[adapter_name(parsed->layer, parsed->map + parsed->part)] = scaled;
  }
  validate(result);
  return result;
}

}  // namespace fathom
