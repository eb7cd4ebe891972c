#include "model/gguf_config.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <numbers>
#include <optional>
#include <string_view>
#include <utility>

#include "base/error.h"
#include "base/progress.h"
#include "model/gguf_names.h"
#include "model/hf_config.h"
#include "model/rope.h"

namespace fathom {
namespace {

/// Metadata under "ARCHITECTURE.".
class Keys {
 public:
  explicit Keys(const GgufFile& file) : file_(&file), architecture_(file.string("general.architecture")) {}

  const std::string& architecture() const { return architecture_; }
  std::string name(const std::string& key) const { return architecture_ + "." + key; }
  bool has(const std::string& key) const { return file_->has(name(key)); }
  std::int64_t integer(const std::string& key, std::int64_t most) const {
    return file_->integer(name(key), 1, most);
  }
  std::int64_t integer_or(const std::string& key, std::int64_t fallback, std::int64_t most) const {
    return has(key) ? file_->integer(name(key), 0, most) : fallback;
  }
  double number_or(const std::string& key, double fallback) const {
    return has(key) ? file_->number(name(key)) : fallback;
  }
  bool is_list(const std::string& key) const {
    return has(key) &&
           std::holds_alternative<std::vector<std::int64_t>>(file_->metadata().find(name(key))->second);
  }
  std::vector<std::int64_t> integers(const std::string& key) const { return file_->integers(name(key)); }
  std::string string_or(const std::string& key, const std::string& fallback) const {
    return has(key) ? file_->string(name(key)) : fallback;
  }
  bool flag_or(const std::string& key, bool fallback) const {
    const auto found = file_->metadata().find(name(key));
    if (found == file_->metadata().end()) return fallback;
    if (const bool* value = std::get_if<bool>(&found->second)) return *value;
    refuse(key, "expected a boolean");
  }
  [[noreturn]] void refuse(const std::string& key, const std::string& why) const {
    fail("{}: key '{}': {}", file_->path().string(), name(key), why);
  }

 private:
  const GgufFile* file_;
  std::string architecture_;
};

bool has_tensor(const GgufFile& file, std::string_view name) {
  return file.tensors().find(name) != file.tensors().end();
}

/// Whether a layer has a bias of one of these maps.
bool has_bias_of(const GgufFile& file, std::initializer_list<const char*> maps) {
  return std::ranges::any_of(file.tensors(), [&](const auto& entry) {
    return std::ranges::any_of(
        maps, [&](const char* map) { return entry.first.ends_with(fmt::format(".{}.bias", map)); });
  });
}

const char* model_type_of(const GgufFile& file, const Keys& keys) {
  const std::string& architecture = keys.architecture();
  if (architecture == "llama") return keys.has("attention.sliding_window") ? "mistral" : "llama";
  if (architecture == "nanbeige") return "llama";
  if (architecture == "qwen2") return "qwen2";
  if (architecture == "qwen3") return "qwen3";
  if (architecture == "gemma") return "gemma";
  if (architecture == "gemma2") return "gemma2";
  if (architecture == "gemma3") return "gemma3_text";
  fail(
      "{}: key 'general.architecture' is '{}': this architecture is not supported (supported: llama, "
      "nanbeige, qwen2, qwen3, gemma, gemma2, gemma3)",
      file.path().string(), architecture);
}

void write_sizes(Json& json, const GgufFile& file, const Keys& keys) {
  const auto embedding = file.tensors().find("token_embd.weight");
  if (embedding == file.tensors().end())
    fail("{}: tensor 'token_embd.weight' is missing", file.path().string());
  json["vocab_size"] = embedding->second.rows();
  const std::int64_t hidden = keys.integer("embedding_length", 1 << 17);
  const std::int64_t heads = keys.integer("attention.head_count", 4096);
  const std::int64_t head_dim =
      keys.has("attention.key_length") ? keys.integer("attention.key_length", 4096) : hidden / heads;
  json["hidden_size"] = hidden;
  json["intermediate_size"] = keys.integer("feed_forward_length", 1 << 20);
  json["num_hidden_layers"] = keys.integer("block_count", 4096);
  json["num_attention_heads"] = heads;
  json["num_key_value_heads"] = keys.integer_or("attention.head_count_kv", heads, 4096);
  json["head_dim"] = head_dim;
  json["max_position_embeddings"] = keys.integer("context_length", 1 << 26);
  json["rms_norm_eps"] = keys.number_or("attention.layer_norm_rms_epsilon", 1e-6);
  if (keys.integer_or("attention.value_length", head_dim, 4096) != head_dim)
    keys.refuse("attention.value_length",
                fmt::format("expected attention.key_length, which is {}", head_dim));
  if (keys.integer_or("rope.dimension_count", head_dim, 4096) != head_dim)
    keys.refuse("rope.dimension_count",
                fmt::format("rotating only a part of each head is not supported (expected {})", head_dim));
  if (keys.integer_or("expert_count", 0, 1 << 20) != 0)
    keys.refuse("expert_count", "mixtures of experts are not supported");
}

/// The Llama 3 scaling that gives these divisors, if there is one with the bounds 1 and 4 that all such
/// models have. The largest divisor is the factor F; a divisor f between 1 and F belongs to the blend 1 / f =
/// (1 - s) / F + s with s = (original / wavelength - low) / (high - low), which gives the original context.
std::optional<Llama3Scaling> recover_llama3(const std::vector<float>& factors, double theta) {
  const auto head_dim = static_cast<std::int64_t>(factors.size()) * 2;
  const std::vector<float> plain = plain_frequencies(theta, head_dim);
  Llama3Scaling scaling;
  scaling.factor = static_cast<double>(*std::max_element(factors.begin(), factors.end()));
  for (std::size_t i = 0; i < factors.size(); i++) {
    const auto divisor = static_cast<double>(factors[i]);
    if (divisor < 1.001 || divisor > 0.999 * scaling.factor) continue;
    const double smooth = (scaling.factor / divisor - 1) / (scaling.factor - 1);
    const double wavelength = 2 * std::numbers::pi / static_cast<double>(plain[i]);
    scaling.original_positions = std::round(
        wavelength * (smooth * (scaling.high_frequency - scaling.low_frequency) + scaling.low_frequency));
    break;
  }
  // The file holds quotients rounded to float32, hence the tolerance.
  const std::vector<float> scaled = llama3_frequencies(theta, head_dim, scaling);
  for (std::size_t i = 0; i < factors.size(); i++)
    if (std::abs(plain[i] / scaled[i] - factors[i]) > 1e-4F * factors[i]) return std::nullopt;
  return scaling;
}

double rope_base(const Keys& keys) { return keys.number_or("rope.freq_base", 10'000); }

std::vector<float> read_rope_factors(const GgufFile& file, std::int64_t head_dim) {
  const auto found = file.tensors().find("rope_freqs.weight");
  if (found == file.tensors().end()) return {};
  const Tensor& tensor = found->second;
  if (tensor.elements() != head_dim / 2)
    fail("{}: tensor 'rope_freqs.weight' has shape {}, expected [{}]", file.path().string(),
         to_string(tensor.shape), head_dim / 2);
  std::vector<float> factors = decode(tensor);
  for (const float factor : factors)
    if (!(factor > 1e-6F && factor < 1e6F))
      fail("{}: tensor 'rope_freqs.weight' holds {}, expected divisors from 1e-6 to 1e6",
           file.path().string(), factor);
  return factors;
}

void write_rope(Json& json, const GgufFile& file, const Keys& keys) {
  json["rope_theta"] = rope_base(keys);
  if (keys.architecture() == "gemma3")
    json["rope_local_base_freq"] = keys.number_or("rope.freq_base_swa", 10'000);
  const double linear = keys.number_or("rope.scale_linear", 1);  // what files of 2023 have
  const double factor = keys.number_or("rope.scaling.factor", linear);
  const std::string type = keys.string_or("rope.scaling.type", "linear");
  if (type == "linear") {
    if (factor != 0 && factor != 1) json["rope_scaling"] = {{"rope_type", "linear"}, {"factor", factor}};
  } else if (type == "yarn") {
    for (const char* key : {"rope.scaling.attn_factor", "rope.scaling.yarn_log_multiplier"})
      if (keys.number_or(key, 1) != 1 && keys.number_or(key, 1) != 0)
        keys.refuse(key, "this option of yarn is not supported");
    Json& scaling = json["rope_scaling"] = {{"rope_type", "yarn"}, {"factor", factor}};
    if (keys.has("rope.scaling.original_context_length"))
      scaling["original_max_position_embeddings"] =
          keys.integer("rope.scaling.original_context_length", 1 << 26);
    if (keys.has("rope.scaling.yarn_beta_fast"))
      scaling["beta_fast"] = keys.number_or("rope.scaling.yarn_beta_fast", 32);
    if (keys.has("rope.scaling.yarn_beta_slow"))
      scaling["beta_slow"] = keys.number_or("rope.scaling.yarn_beta_slow", 1);
  } else if (type != "none") {
    keys.refuse("rope.scaling.type",
                fmt::format("'{}' is not supported (supported: none, linear, yarn)", type));
  }
  const std::vector<float> factors = read_rope_factors(file, json["head_dim"].get<std::int64_t>());
  if (factors.empty()) return;
  if (json.contains("rope_scaling"))
    keys.refuse("rope.scaling.type", "not supported together with the tensor 'rope_freqs.weight'");
  if (const auto llama3 = recover_llama3(factors, rope_base(keys)))
    json["rope_scaling"] = {
        {"rope_type", "llama3"},
        {"factor", llama3->factor},
        {"low_freq_factor", llama3->low_frequency},
        {"high_freq_factor", llama3->high_frequency},
        {"original_max_position_embeddings", static_cast<std::int64_t>(llama3->original_positions)}};
}

/// What Gemma 2's and 3's scores are divided by the root of, which files do not say: the width of a head,
/// 256, but in the models of 27B, whose heads are narrower, hidden / heads. Layers can be pruned, so only
/// where these sizes are none of Google's it is guessed as llama.cpp guesses for all, from the 27B's number
/// of layers.
std::int64_t attention_scalar(const Json& json, const GgufFile& file, bool gemma2) {
  const auto hidden = json["hidden_size"].get<std::int64_t>();
  const auto heads = json["num_attention_heads"].get<std::int64_t>();
  const auto head_dim = json["head_dim"].get<std::int64_t>();
  if (head_dim == 256 || head_dim == hidden / heads) return head_dim;
  if (hidden == (gemma2 ? 4608 : 5376) && heads == 32 && head_dim == 128) return hidden / heads;
  const bool deepest = json["num_hidden_layers"] == (gemma2 ? 46 : 62);
  const std::int64_t guess = deepest ? hidden / heads : head_dim;
  print_note(
      fmt::format("{}: does not say what attention is scaled by, and no known model has its sizes; "
                  "1 / sqrt({}) is a guess, as llama.cpp makes it",
                  file.path().string(), guess));
  return guess;
}

/// Which layers have a window: a list says it of each, a number that every so many layers one has none.
std::vector<bool> sliding_layers(const Keys& keys, std::int64_t layers, std::int64_t default_period) {
  const std::string key = "attention.sliding_window_pattern";
  std::vector<bool> slides;
  if (keys.is_list(key)) {
    for (const std::int64_t value : keys.integers(key)) slides.push_back(value != 0);
    if (std::ssize(slides) != layers)
      keys.refuse(key,
                  fmt::format("has {} entries, expected one for each of {} layers", slides.size(), layers));
    return slides;
  }
  const std::int64_t period = std::max<std::int64_t>(keys.integer_or(key, default_period, 4096), 1);
  for (std::int64_t layer = 0; layer < layers; layer++) slides.push_back((layer + 1) % period != 0);
  return slides;
}

/// Windows and caps as llama.cpp's model loaders fill them in (llama-model.cpp): what the converter leaves
/// out has a default there.
void write_gemma_options(Json& json, const GgufFile& file, const Keys& keys) {
  const auto layers = json["num_hidden_layers"].get<std::int64_t>();
  const bool gemma2 = keys.architecture() == "gemma2";
  // Files that Fathom wrote (model/gguf_save.cpp) say it.
  if (const double scale = keys.number_or("attention.scale", 0); scale > 0) {
    json["query_pre_attn_scalar"] = 1 / (scale * scale);
  } else {
    json["query_pre_attn_scalar"] = attention_scalar(json, file, gemma2);
  }
  if (gemma2) json["attn_logit_softcapping"] = keys.number_or("attn_logit_softcapping", 50);
  const double cap = keys.number_or("final_logit_softcapping", gemma2 ? 30 : 0);
  json["final_logit_softcapping"] = cap > 0 ? Json(cap) : Json(nullptr);

  const std::int64_t window = keys.integer_or("attention.sliding_window", gemma2 ? 4096 : 0, 1 << 30);
  const std::vector<bool> slides = sliding_layers(keys, layers, gemma2 ? 2 : 6);
  json["sliding_window"] = window > 0 ? Json(window) : Json(nullptr);
  Json& types = json["layer_types"] = Json::array();
  for (const bool slide : slides)
    types.push_back(window > 0 && slide ? "sliding_attention" : "full_attention");
}

void write_tokens(Json& json, const GgufFile& file) {
  Json ends = Json::array();
  for (const char* name : {"eos", "eot", "eom"}) {
    const auto id = file.special_token(name);
    if (id && std::find(ends.begin(), ends.end(), Json(*id)) == ends.end()) ends.push_back(*id);
  }
  json["eos_token_id"] = ends.size() == 1 ? ends[0] : ends.empty() ? Json(nullptr) : ends;
  if (const auto id = file.special_token("bos")) json["bos_token_id"] = *id;
}

/// Nanbeige's loops over a Llama's layers, as a depth plan.
void write_loops(Json& json, const Keys& keys) {
  const std::int64_t loops = std::max<std::int64_t>(keys.integer_or("num_loops", 1, 4096), 1);
  if (loops == 1) return;
  if (!keys.flag_or("skip_loop_final_norm", false))
    keys.refuse("skip_loop_final_norm", "a norm between loops is not supported (expected true)");
  const auto layers = json["num_hidden_layers"].get<std::int64_t>();
  Json visits = Json::array();
  for (std::int64_t i = 0; i < loops * layers; i++) visits.push_back({{"layer", i % layers}});
  json["fathom"] = {{"base_model_type", json["model_type"]},
                    {"plan", {{"layers", layers}, {"visits", std::move(visits)}}}};
  json["model_type"] = "fathom";
}

}  // namespace

Json hf_config_from_gguf(const GgufFile& file) {
  const Keys keys(file);
  Json json;
  json["model_type"] = model_type_of(file, keys);
  write_sizes(json, file, keys);
  write_rope(json, file, keys);
  write_tokens(json, file);
  json["tie_word_embeddings"] = !has_tensor(file, "output.weight");
  const std::string& architecture = keys.architecture();
  const bool gemma = architecture.starts_with("gemma");
  json[architecture == "gemma2" || architecture == "gemma3" ? "hidden_activation" : "hidden_act"] =
      gemma ? "gelu_pytorch_tanh" : "silu";
  write_biases(json, has_bias_of(file, {"attn_q", "attn_k", "attn_v", "attn_output"}),
               has_bias_of(file, {"ffn_gate", "ffn_up", "ffn_down"}));
  if (architecture == "gemma2" || architecture == "gemma3") {
    write_gemma_options(json, file, keys);
  } else if (const std::int64_t window = keys.integer_or("attention.sliding_window", 0, 1 << 30);
             window > 0) {
    if (architecture != "llama") keys.refuse("attention.sliding_window", "not supported here");
    json["sliding_window"] = window;
  } else {
    json["sliding_window"] = nullptr;
  }
  if (architecture == "nanbeige") write_loops(json, keys);
  return json;
}

TensorMap canonical_tensors(const GgufFile& file, const ModelConfig& config) {
  const std::string& architecture = file.string("general.architecture");
  const bool interleaved = architecture == "llama" || architecture == "nanbeige";
  TensorMap tensors;
  for (const auto& [name, tensor] : file.tensors()) {
    if (name == "rope_freqs.weight") continue;  // read as part of the configuration
    const auto canonical = canonical_from_gguf(name, config);
    if (!canonical)
      fail("{}: tensor '{}' is not part of architecture '{}' as Fathom knows it", file.path().string(), name,
           config.architecture);
    Tensor view = tensor;
    if (interleaved && canonical->find("self_attn.q_proj.") != std::string::npos)
      view.interleaved_heads = config.heads;
    if (interleaved && canonical->find("self_attn.k_proj.") != std::string::npos)
      view.interleaved_heads = config.kv_heads;
    if (config.norm_plus_one && canonical->ends_with("norm.weight")) view.decoded_offset = -1;
    if (!tensors.emplace(*canonical, std::move(view)).second)
      fail("{}: tensor '{}' is there twice, under two names", file.path().string(), name);
  }
  return tensors;
}

std::vector<float> inexpressible_rope_factors(const GgufFile& file, const ModelConfig& config) {
  std::vector<float> factors = read_rope_factors(file, config.head_dim);
  if (!factors.empty() && recover_llama3(factors, rope_base(Keys(file)))) factors.clear();
  return factors;
}

}  // namespace fathom
