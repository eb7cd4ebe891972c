#include "model/hf_config.h"

#include <algorithm>
#include <array>
#include <cmath>

#include "base/error.h"

namespace fathom {
namespace {

/// How the default kinds of attention alternate over the layers.
enum class Windows {
  none,     ///< no layer has a window
  all,      ///< every layer has it if sliding_window is set (Mistral)
  upper,    ///< layers from max_window_layers on, if use_sliding_window (Qwen)
  pattern,  ///< all but every n-th layer (Gemma 2: n = 2, Gemma 3: n = 6)
};

/// An architecture: what transformers' configuration class takes for absent keys, and what its model does.
struct Architecture {
  const char* model_type;
  const char* causal_lm;
  std::int64_t vocab, hidden, intermediate, layers, heads;
  std::int64_t kv_heads;  ///< 0: as many as heads
  std::int64_t head_dim;  ///< 0: hidden / heads
  std::int64_t positions;
  bool tied;
  std::int64_t end_token;  ///< -1: none
  Windows windows;
  bool gemma;  ///< gains of 1 + w, embeddings scaled by sqrt(hidden)
};

constexpr std::array architectures{
    Architecture{"llama", "LlamaForCausalLM", 32'000, 4096, 11'008, 32, 32, 0, 0, 2048, false, 2,
                 Windows::none, false},
    Architecture{"mistral", "MistralForCausalLM", 32'000, 4096, 14'336, 32, 32, 8, 0, 131'072, false, 2,
                 Windows::all, false},
    Architecture{"qwen2", "Qwen2ForCausalLM", 151'936, 4096, 22'016, 32, 32, 32, 0, 32'768, false, -1,
                 Windows::upper, false},
    Architecture{"qwen3", "Qwen3ForCausalLM", 151'936, 4096, 22'016, 32, 32, 32, 128, 32'768, false, -1,
                 Windows::upper, false},
    Architecture{"gemma", "GemmaForCausalLM", 256'000, 3072, 24'576, 28, 16, 16, 256, 8192, true, 1,
                 Windows::none, true},
    Architecture{"gemma2", "Gemma2ForCausalLM", 256'000, 2304, 9216, 26, 8, 4, 256, 8192, true, 1,
                 Windows::pattern, true},
    Architecture{"gemma3_text", "Gemma3ForCausalLM", 262'208, 2304, 9216, 26, 8, 4, 256, 131'072, true, 1,
                 Windows::pattern, true},
};

const Architecture* find_architecture(const std::string& model_type) {
  const auto* found = std::find_if(architectures.begin(), architectures.end(),
                                   [&](const Architecture& a) { return model_type == a.model_type; });
  return found == architectures.end() ? nullptr : found;
}

const Architecture& architecture_of(const JsonObject& json) {
  const std::string model_type = json.string("model_type");
  const Architecture* architecture = find_architecture(model_type);
  if (architecture == nullptr) {
    std::string names;
    for (const Architecture& a : architectures)
      names += std::string(names.empty() ? "" : ", ") + a.model_type;
    fail("{} is '{}': this architecture is not supported (supported: {})", json.field("model_type"),
         model_type, names);
  }
  return *architecture;
}

bool absent(const JsonObject& json, const std::string& key) { return !json.raw().contains(key); }

/// Options that would change the result and that no supported architecture has.
void refuse_unsupported(const JsonObject& json) {
  for (const char* key : {"quantization_config", "compression_config"})
    if (json.has(key))
      fail("{} is set: weights quantised that way are not read; take the unquantised model or a GGUF file",
           json.field(key));
  for (const char* key : {"use_bidirectional_attention", "is_encoder_decoder", "add_cross_attention"}) {
    if (json.has(key) && json.at(key) != Json(false))
      fail("{} is {}: not supported (expected false)", json.field(key),
           json.at(key).dump(-1, ' ', true, Json::error_handler_t::replace));
  }
  for (const char* key : {"num_experts", "num_local_experts", "n_routed_experts"})
    if (json.integer_or(key, 0, 0, 1 << 20) != 0)
      fail("{} is {}: mixtures of experts are not supported (expected 0)", json.field(key),
           json.integer(key, 0, 1 << 20));
  if (json.number_or("partial_rotary_factor", 1) != 1)
    fail("{} is {}: rotating only a part of each head is not supported (expected 1)",
         json.field("partial_rotary_factor"), json.number("partial_rotary_factor"));
  if (!json.has("architectures")) return;
  for (const Json& name : json.array("architectures", 16)) {
    const std::string text = name.is_string() ? name.get<std::string>() : "";
    const bool head_of_another_kind = text.find("For") != std::string::npos &&
                                      text.find("ForCausalLM") == std::string::npos &&
                                      text.find("ForConditionalGeneration") == std::string::npos;
    if (text.empty() || head_of_another_kind)
      fail("{} holds '{}', expected a causal language model", json.field("architectures"), text);
  }
}

Activation read_activation(const JsonObject& json, const std::string& key, const std::string& fallback) {
  const std::string name = json.string_or(key, fallback);
  if (name == "silu" || name == "swish") return Activation::silu;
  if (name == "gelu") return Activation::gelu;
  if (name == "gelu_pytorch_tanh" || name == "gelu_new" || name == "gelu_fast") return Activation::gelu_tanh;
  if (name == "relu") return Activation::relu;
  fail(
      "{} is '{}': this activation is not supported (supported: silu, gelu, gelu_pytorch_tanh, gelu_new, "
      "relu)",
      json.field(key), name);
}

/// Gemma 1 was released with hidden_act "gelu" but trained with the tanh form, and transformers 4 has a
/// second key for it.
Activation read_gemma_activation(const JsonObject& json) {
  const auto read = [&](const char* key) {
    const Activation activation = read_activation(json, key, "gelu_pytorch_tanh");
    return activation == Activation::gelu ? Activation::gelu_tanh : activation;
  };
  const Activation activation = read("hidden_act");
  if (json.has("hidden_activation") && read("hidden_activation") != activation)
    fail("{} is '{}', but hidden_act is '{}': they must agree", json.field("hidden_activation"),
         json.string("hidden_activation"), json.string_or("hidden_act", "gelu_pytorch_tanh"));
  return activation;
}

void read_sizes(const JsonObject& json, const Architecture& a, ModelConfig& config) {
  config.vocab_size = json.integer_or("vocab_size", a.vocab, 1, 1 << 24);
  config.hidden_size = json.integer_or("hidden_size", a.hidden, 1, 1 << 17);
  config.intermediate_size = json.integer_or("intermediate_size", a.intermediate, 1, 1 << 20);
  config.heads = json.integer_or("num_attention_heads", a.heads, 1, 4096);
  const bool kv_defaults = absent(json, "num_key_value_heads") && a.kv_heads != 0;
  config.kv_heads = json.integer_or("num_key_value_heads", kv_defaults ? a.kv_heads : config.heads, 1, 4096);
  if (config.heads % config.kv_heads != 0)
    fail("{} is {}, expected a divisor of num_attention_heads, which is {}",
         json.field("num_key_value_heads"), config.kv_heads, config.heads);
  const bool dim_defaults = absent(json, "head_dim") && a.head_dim != 0;
  config.head_dim =
      json.integer_or("head_dim", dim_defaults ? a.head_dim : config.hidden_size / config.heads, 0, 4096);
  if (config.head_dim < 2 || config.head_dim % 2 != 0)
    fail("{} is {}, expected an even number from 2 to 4096 (absent, it is hidden_size / num_attention_heads)",
         json.field("head_dim"), config.head_dim);
  config.max_positions = json.integer_or("max_position_embeddings", a.positions, 1, 1 << 26);
}

/// `rope_parameters` (transformers 5) or `rope_scaling` (4), for one kind of attention: nested under its name
/// or flat.
RopeSettings read_rope(const JsonObject& json, const ModelConfig& config, const std::string& attention) {
  RopeDefaults defaults;
  defaults.theta = json.number_or("rope_theta", defaults.theta);
  defaults.positions = config.max_positions;
  if (json.has("original_max_position_embeddings"))
    defaults.original_positions = json.integer("original_max_position_embeddings", 1, 1 << 26);
  const bool scaled = json.has("rope_scaling") && !json.at("rope_scaling").empty();
  const auto settings = json.object_if(scaled ? "rope_scaling" : "rope_parameters");
  static const Json nothing = Json::object();
  if (!settings) return {JsonObject(nothing, json.field("rope_parameters")), defaults, nullptr};
  if (!settings->has(attention)) return {*settings, defaults, nullptr};
  defaults.original_positions.reset();  // transformers reads the outer key for flat settings only
  return {settings->object(attention), defaults, nullptr};
}

/// Gemma 3 turns its local layers by a base of their own and scales only the global ones.
RopeSettings read_gemma3_rope(const JsonObject& json, const ModelConfig& config, bool local) {
  const char* attention = local ? "sliding_attention" : "full_attention";
  RopeDefaults defaults;
  defaults.theta = local ? json.number_or("rope_local_base_freq", 1e4) : json.number_or("rope_theta", 1e6);
  defaults.positions = config.max_positions;
  const auto merged = std::make_shared<Json>(Json::object());
  if (const auto parameters = json.object_if("rope_parameters")) {
    const bool nested = parameters->has("full_attention") || parameters->has("sliding_attention");
    if (!nested && !parameters->raw().empty())
      fail("{} has neither 'full_attention' nor 'sliding_attention', which this architecture needs",
           json.field("rope_parameters"));
    if (const auto own = parameters->object_if(attention)) *merged = own->raw();
  }
  if (const auto scaling = json.object_if("rope_scaling"); scaling && !local) {
    if (scaling->has("type") && !scaling->has("rope_type"))
      fail("{} is set: transformers 4 obeys it here and 5 does not; name the scaling by 'rope_type'",
           scaling->field("type"));
    merged->update(scaling->raw());
  }
  const std::string where = json.field(std::string("rope_parameters.") + attention);
  return {JsonObject(*merged, where), defaults, merged};
}

/// sliding_window, or 0 when there is none.
std::int64_t read_window(const JsonObject& json, const Architecture& a) {
  if (a.windows == Windows::none) return 0;
  if (a.windows == Windows::upper && !json.boolean_or("use_sliding_window", false)) return 0;
  if (absent(json, "sliding_window")) return 4096;
  return json.integer_or("sliding_window", 0, 1, 1 << 30);
}

void read_attention_types(const JsonObject& json, const Architecture& a, ModelConfig& config) {
  const auto rope = [&](bool local) {
    const RopeSettings rope_of = rope_settings(json, config, local);
    return make_rope(rope_of.settings, rope_of.defaults, config.head_dim);
  };
  const std::int64_t window = read_window(json, a);
  if (window == 0 || a.windows != Windows::all)
    config.attention_types.push_back({"full_attention", 0, rope(false)});
  if (window != 0) config.attention_types.push_back({"sliding_attention", window, rope(true)});
}

bool slides_by_default(const JsonObject& json, const Architecture& a, std::int64_t layer) {
  switch (a.windows) {
    case Windows::none:
      return false;
    case Windows::all:
      return true;
    case Windows::upper:
      return layer >= json.integer_or("max_window_layers", 28, 0, 1 << 20);
    case Windows::pattern:
      break;
  }
  const bool gemma2 = a.model_type == std::string_view("gemma2");  // its pattern is fixed
  const std::int64_t period = gemma2 ? 2 : json.integer_or("sliding_window_pattern", 6, 1, 4096);
  return (layer + 1) % period != 0;
}

std::vector<std::int64_t> read_layer_types(const JsonObject& json, const Architecture& a,
                                           const ModelConfig& config) {
  const std::int64_t layers = json.integer_or("num_hidden_layers", a.layers, 1, 4096);
  const auto index_of = [&](const std::string& name) {
    for (std::size_t i = 0; i < config.attention_types.size(); i++)
      if (config.attention_types[i].name == name) return static_cast<std::int64_t>(i);
    return std::int64_t{-1};
  };
  std::vector<std::int64_t> types;
  if (!json.has("layer_types")) {
    const bool windowed = index_of("sliding_attention") >= 0;
    for (std::int64_t layer = 0; layer < layers; layer++)
      types.push_back(
          index_of(windowed && slides_by_default(json, a, layer) ? "sliding_attention" : "full_attention"));
    return types;
  }
  const Json& names = json.array("layer_types", 4096);
  if (static_cast<std::int64_t>(names.size()) != layers)
    fail("{} has {} entries, expected one for each of num_hidden_layers = {}", json.field("layer_types"),
         names.size(), layers);
  for (const Json& name : names) {
    const std::string text = name.is_string() ? name.get<std::string>() : "";
    types.push_back(index_of(text));
    if (types.back() >= 0) continue;
    std::string known;
    for (const AttentionType& type : config.attention_types) known += (known.empty() ? "" : ", ") + type.name;
    fail("{} holds '{}', expected one of: {} (as {} and its sliding_window have them)",
         json.field("layer_types"), text, known, a.model_type);
  }
  return types;
}

double read_softcap(const JsonObject& json, const std::string& key, double when_absent) {
  if (absent(json, key)) return when_absent;
  const double cap = json.number_or(key, 0);
  if (json.has(key) && (cap < 1e-3 || cap > 1e6))
    fail("{} is {}, expected null or a number from 0.001 to 1000000", json.field(key), cap);
  return cap;
}

double inverse_root(double value) { return 1 / std::sqrt(value); }

// Mistral has no biases and Qwen 2 always those of q, k and v, whatever the key says.
bool obeys_attention_bias(std::string_view model_type) {
  return model_type != "mistral" && model_type != "qwen2";
}
bool obeys_mlp_bias(std::string_view model_type) { return model_type == "llama"; }

/// What sets the architectures apart, beyond sizes and windows.
void read_options(const JsonObject& json, const Architecture& a, ModelConfig& config) {
  const std::string& name = config.architecture;
  config.norm_plus_one = a.gemma;
  config.embedding_scale = a.gemma ? std::sqrt(static_cast<double>(config.hidden_size)) : 1;
  config.attention_scale = inverse_root(static_cast<double>(config.head_dim));
  config.qk_norm = name == "qwen3" || name == "gemma3_text";
  config.sandwich_norms = name == "gemma2" || name == "gemma3_text";

  const bool bias = obeys_attention_bias(name) && json.boolean_or("attention_bias", false);
  config.qkv_bias = bias || name == "qwen2";
  config.o_bias = bias;
  config.mlp_bias = obeys_mlp_bias(name) && json.boolean_or("mlp_bias", false);

  if (name == "gemma") {
    config.activation = read_gemma_activation(json);
  } else if (a.gemma) {
    config.activation = read_activation(json, "hidden_activation", "gelu_pytorch_tanh");
  } else {
    config.activation = read_activation(json, "hidden_act", "silu");
  }
  if (config.sandwich_norms) {
    const double scalar = json.number_or("query_pre_attn_scalar", 256);
    if (scalar < 1e-3 || scalar > 1e9)
      fail("{} is {}, expected a number from 0.001 to 1e9", json.field("query_pre_attn_scalar"), scalar);
    config.attention_scale = inverse_root(scalar);
    const bool capped = name == "gemma2";
    // transformers' Gemma 3 has the key for attention too, but its model does not apply it.
    config.attention_softcap = capped ? read_softcap(json, "attn_logit_softcapping", 50) : 0;
    config.logit_softcap = read_softcap(json, "final_logit_softcapping", capped ? 30 : 0);
  }
}

}  // namespace

RopeSettings rope_settings(const JsonObject& json, const ModelConfig& config, bool local) {
  if (config.architecture == "gemma3_text") return read_gemma3_rope(json, config, local);
  return read_rope(json, config, local ? "sliding_attention" : "full_attention");
}

std::string causal_lm_class(const std::string& architecture) {
  const Architecture* found = find_architecture(architecture);
  if (found == nullptr) fail("'{}' is no supported architecture", architecture);
  return found->causal_lm;
}

std::vector<std::int64_t> read_end_tokens(const JsonObject& json) {
  constexpr std::int64_t most = std::int64_t{1} << 31;
  const char* key = "eos_token_id";
  if (!json.has(key)) return {};
  const Json list = json.at(key).is_array() ? json.array(key, 1024) : Json::array({json.at(key)});
  std::vector<std::int64_t> tokens;
  for (const Json& token : list) {
    if (token.is_null() || token == Json(-1)) continue;
    if (!token.is_number_integer() || token < Json(0) || token > Json(most))
      fail("{} holds something that is no token id", json.field(key));
    tokens.push_back(token.get<std::int64_t>());
  }
  return tokens;
}

HfConfig parse_gpt_neox_sizes(const JsonObject& json) {
  HfConfig result;
  ModelConfig& config = result.config;
  config.architecture = "gpt_neox";
  config.gated = false;
  config.vocab_size = json.integer_or("vocab_size", 50'432, 1, 1 << 24);
  config.hidden_size = json.integer_or("hidden_size", 6144, 1, 1 << 17);
  config.intermediate_size = json.integer_or("intermediate_size", 24'576, 1, 1 << 20);
  config.heads = json.integer_or("num_attention_heads", 64, 1, 4096);
  config.kv_heads = config.heads;
  config.head_dim = config.hidden_size / config.heads;
  config.attention_types.resize(1);
  result.layer_types.assign(static_cast<std::size_t>(json.integer_or("num_hidden_layers", 44, 1, 4096)), 0);
  return result;
}

HfConfig parse_hf_config(const JsonObject& json) {
  const Architecture& a = architecture_of(json);
  refuse_unsupported(json);
  HfConfig result;
  ModelConfig& config = result.config;
  config.architecture = a.model_type;
  read_sizes(json, a, config);
  config.norm_eps = json.number_or("rms_norm_eps", 1e-6);
  if (config.norm_eps < 0 || config.norm_eps > 1)
    fail("{} is {}, expected a number from 0 to 1", json.field("rms_norm_eps"), config.norm_eps);
  read_options(json, a, config);
  read_attention_types(json, a, config);
  result.layer_types = read_layer_types(json, a, config);
  if (json.has("tie_word_embeddings")) result.tied_as_written = json.boolean_or("tie_word_embeddings", false);
  config.tied_embeddings = result.tied_as_written.value_or(a.tied);
  config.end_tokens = read_end_tokens(json);
  if (absent(json, "eos_token_id") && a.end_token >= 0) config.end_tokens = {a.end_token};
  return result;
}

void write_biases(Json& json, bool attention, bool mlp) {
  const std::string model_type = json.value("model_type", "");
  const auto write = [&](const char* key, bool obeyed, bool there) {
    if (obeyed && json.value(key, Json(false)) != Json(there)) json[key] = there;
  };
  write("attention_bias", obeys_attention_bias(model_type), attention);
  write("mlp_bias", obeys_mlp_bias(model_type), mlp);
}

void write_layer_types(Json& json, const ModelConfig& config, const std::vector<std::int64_t>& types) {
  json["num_hidden_layers"] = types.size();
  const Architecture* a = find_architecture(config.architecture);
  if (a == nullptr || a->windows == Windows::none || a->windows == Windows::all) {
    if (json.contains("layer_types")) json["layer_types"] = Json::array();
    for (std::size_t i = 0; json.contains("layer_types") && i < types.size(); i++)
      json["layer_types"].push_back(config.attention_types[0].name);
    return;
  }
  Json names = Json::array();
  std::size_t first_sliding = types.size();
  for (std::size_t i = 0; i < types.size(); i++) {
    names.push_back(config.attention_types.at(static_cast<std::size_t>(types[i])).name);
    if (names.back() == "sliding_attention") first_sliding = std::min(first_sliding, i);
  }
  json["layer_types"] = std::move(names);
  if (a->windows == Windows::upper) json["max_window_layers"] = first_sliding;
  // The list says it all; a pattern beside it would speak of layers that are gone.
  json.erase("sliding_window_pattern");
  json.erase("_sliding_window_pattern");
}

}  // namespace fathom
