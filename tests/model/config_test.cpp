// config.json of every architecture, as transformers 4 and 5 write it, and what is refused.
#include <gtest/gtest.h>

#include <cmath>

#include "base/error.h"
#include "base/file.h"
#include "damage.h"
#include "model/checkpoint.h"
#include "model/hf_config.h"
#include "oracle.h"
#include "scratch.h"

namespace fathom {
namespace {

HfConfig parse(const Json& json) { return parse_hf_config(JsonObject(json, "config.json")); }

/// The message of the error that parsing gives; empty if it gives none.
std::string refusal(const Json& json) {
  try {
    parse(json);
  } catch (const Error& e) {
    return e.what();
  }
  return "";
}

Json tiny(const std::string& model_type) {
  return {{"model_type", model_type},
          {"vocab_size", 64},
          {"hidden_size", 24},
          {"intermediate_size", 32},
          {"num_hidden_layers", 4},
          {"num_attention_heads", 2},
          {"num_key_value_heads", 1},
          {"head_dim", 12},
          {"max_position_embeddings", 2048},
          {"sliding_window", 8},
          {"use_sliding_window", true},
          {"max_window_layers", 2}};
}

const char* const model_types[] = {"llama", "mistral", "qwen2", "qwen3", "gemma", "gemma2", "gemma3_text"};

std::vector<std::string> types_of(const HfConfig& hf) {
  std::vector<std::string> names;
  for (const std::int64_t type : hf.layer_types)
    names.push_back(hf.config.attention_types.at(static_cast<std::size_t>(type)).name);
  return names;
}

TEST(Config, AbsentKeysHaveTheDefaultsOfTransformers) {
  struct Expected {
    const char* model_type;
    std::int64_t vocab, hidden, intermediate, layers, heads, kv_heads, head_dim, positions;
    bool tied;
    std::vector<std::int64_t> ends;
  };
  const Expected table[] = {
      {"llama", 32'000, 4096, 11'008, 32, 32, 32, 128, 2048, false, {2}},
      {"mistral", 32'000, 4096, 14'336, 32, 32, 8, 128, 131'072, false, {2}},
      {"qwen2", 151'936, 4096, 22'016, 32, 32, 32, 128, 32'768, false, {}},
      {"qwen3", 151'936, 4096, 22'016, 32, 32, 32, 128, 32'768, false, {}},
      {"gemma", 256'000, 3072, 24'576, 28, 16, 16, 256, 8192, true, {1}},
      {"gemma2", 256'000, 2304, 9216, 26, 8, 4, 256, 8192, true, {1}},
      {"gemma3_text", 262'208, 2304, 9216, 26, 8, 4, 256, 131'072, true, {1}},
  };
  for (const Expected& e : table) {
    SCOPED_TRACE(e.model_type);
    const HfConfig hf = parse({{"model_type", e.model_type}});
    const ModelConfig& c = hf.config;
    EXPECT_EQ(c.vocab_size, e.vocab);
    EXPECT_EQ(c.hidden_size, e.hidden);
    EXPECT_EQ(c.intermediate_size, e.intermediate);
    EXPECT_EQ(static_cast<std::int64_t>(hf.layer_types.size()), e.layers);
    EXPECT_EQ(c.heads, e.heads);
    EXPECT_EQ(c.kv_heads, e.kv_heads);
    EXPECT_EQ(c.head_dim, e.head_dim);
    EXPECT_EQ(c.max_positions, e.positions);
    EXPECT_EQ(c.tied_embeddings, e.tied);
    EXPECT_EQ(c.end_tokens, e.ends);
    EXPECT_DOUBLE_EQ(c.norm_eps, 1e-6);
  }
}

TEST(Config, NullHeadCountsFollowFromTheOthers) {
  Json json = tiny("mistral");
  json["num_key_value_heads"] = nullptr;
  json["head_dim"] = nullptr;
  EXPECT_EQ(parse(json).config.kv_heads, 2);
  EXPECT_EQ(parse(json).config.head_dim, 12);
}

TEST(Config, WhatSetsTheArchitecturesApart) {
  const auto config = [](const char* type) { return parse(tiny(type)).config; };
  for (const char* type : model_types) {
    SCOPED_TRACE(type);
    const bool gemma = std::string(type).starts_with("gemma");
    const ModelConfig c = config(type);
    EXPECT_EQ(c.norm_plus_one, gemma);
    EXPECT_DOUBLE_EQ(c.embedding_scale, gemma ? std::sqrt(24.0) : 1.0);
    EXPECT_EQ(c.qkv_bias, std::string(type) == "qwen2");
    EXPECT_EQ(c.activation, gemma ? Activation::gelu_tanh : Activation::silu);
    EXPECT_EQ(c.qk_norm, std::string(type) == "qwen3" || std::string(type) == "gemma3_text");
    EXPECT_EQ(c.sandwich_norms, std::string(type) == "gemma2" || std::string(type) == "gemma3_text");
  }
  EXPECT_DOUBLE_EQ(config("llama").attention_scale, 1 / std::sqrt(12.0));
  EXPECT_DOUBLE_EQ(config("gemma2").attention_scale, 1.0 / 16);  // query_pre_attn_scalar, not the head
  EXPECT_DOUBLE_EQ(config("gemma2").attention_softcap, 50);
  EXPECT_DOUBLE_EQ(config("gemma2").logit_softcap, 30);
  EXPECT_DOUBLE_EQ(config("gemma3_text").logit_softcap, 0);
}

TEST(Config, BiasesAreThoseOfTheArchitecture) {
  const auto biases = [](const char* type) {
    Json json = tiny(type);
    json["attention_bias"] = true;
    json["mlp_bias"] = true;
    const ModelConfig c = parse(json).config;
    return std::vector<bool>{c.qkv_bias, c.o_bias, c.mlp_bias};
  };
  EXPECT_EQ(biases("llama"), (std::vector<bool>{true, true, true}));
  EXPECT_EQ(biases("mistral"), (std::vector<bool>{false, false, false}));
  EXPECT_EQ(biases("qwen2"), (std::vector<bool>{true, false, false}));
  EXPECT_EQ(biases("qwen3"), (std::vector<bool>{true, true, false}));
  EXPECT_EQ(biases("gemma"), (std::vector<bool>{true, true, false}));
}

TEST(Config, GeluMeansTheTanhFormInGemma1Alone) {
  Json json = tiny("gemma");
  json["hidden_act"] = "gelu";
  EXPECT_EQ(parse(json).config.activation, Activation::gelu_tanh);
  json["hidden_activation"] = "relu";
  EXPECT_NE(refusal(json).find("hidden_activation"), std::string::npos);
  json = tiny("llama");
  json["hidden_act"] = "gelu";
  EXPECT_EQ(parse(json).config.activation, Activation::gelu);
  json = tiny("gemma2");
  json["hidden_activation"] = "gelu";
  EXPECT_EQ(parse(json).config.activation, Activation::gelu);
}

TEST(Config, WindowsAlternateAsInTransformers) {
  const std::string full = "full_attention", sliding = "sliding_attention";
  using Names = std::vector<std::string>;
  EXPECT_EQ(types_of(parse(tiny("llama"))), Names(4, full));
  EXPECT_EQ(types_of(parse(tiny("mistral"))), Names(4, sliding));
  EXPECT_EQ(types_of(parse(tiny("qwen2"))), (Names{full, full, sliding, sliding}));
  EXPECT_EQ(types_of(parse(tiny("gemma2"))), (Names{sliding, full, sliding, full}));
  EXPECT_EQ(types_of(parse(tiny("gemma3_text"))), Names(4, sliding));  // every sixth is global

  Json json = tiny("gemma3_text");
  json["sliding_window_pattern"] = 3;
  EXPECT_EQ(types_of(parse(json)), (Names{sliding, sliding, full, sliding}));
  json["layer_types"] = {full, sliding, full, full};
  EXPECT_EQ(types_of(parse(json)), (Names{full, sliding, full, full}));
  json["layer_types"] = {full, sliding};
  EXPECT_NE(refusal(json).find("layer_types"), std::string::npos);

  json = tiny("qwen3");
  json["use_sliding_window"] = false;
  EXPECT_EQ(types_of(parse(json)), Names(4, full));
  json = tiny("mistral");
  json["sliding_window"] = nullptr;
  EXPECT_EQ(types_of(parse(json)), Names(4, full));
  json.erase("sliding_window");
  EXPECT_EQ(parse(json).config.attention_types.at(0).window, 4096);
}

TEST(Config, Transformers4And5SayTheSame) {
  for (const char* type : model_types) {
    SCOPED_TRACE(type);
    const bool gemma3 = std::string(type) == "gemma3_text";
    for (const char* key : {"type", "rope_type"}) {
      if (gemma3 && std::string(key) == "type") continue;
      Json v4 = tiny(type), v5 = tiny(type);
      v4["torch_dtype"] = "float32";
      v4["rope_theta"] = 5000.0;
      v4["rope_scaling"] = {{key, "linear"}, {"factor", 2.0}};
      v5["dtype"] = "float32";
      v5["rope_parameters"] = {{"rope_type", "linear"}, {"factor", 2.0}, {"rope_theta", 5000.0}};
      if (gemma3) {
        v4["rope_local_base_freq"] = 300.0;
        v5["rope_parameters"] = {{"full_attention", v5["rope_parameters"]},
                                 {"sliding_attention", {{"rope_type", "default"}, {"rope_theta", 300.0}}}};
      }
      EXPECT_EQ(parse(v4).config, parse(v5).config);
      EXPECT_NE(parse(v4).config, parse(tiny(type)).config);
    }
  }
}

TEST(Config, OnlyTheGlobalLayersOfGemma3AreScaled) {
  Json json = tiny("gemma3_text");
  json["rope_scaling"] = {{"rope_type", "linear"}, {"factor", 8.0}};
  const ModelConfig c = parse(json).config;
  ASSERT_EQ(c.attention_types.size(), 2U);
  EXPECT_FLOAT_EQ(c.attention_types[0].rope.frequencies[0], 1.0F / 8);
  EXPECT_FLOAT_EQ(c.attention_types[1].rope.frequencies[0], 1.0F);
  EXPECT_FLOAT_EQ(c.attention_types[1].rope.frequencies[3], 0.01F);  // base 10000
}

// Figures of transformers 5.23, LlamaRotaryEmbedding with head_dim 12 and max_position_embeddings 2048.
TEST(Config, RotaryFrequenciesAreThoseOfTransformers) {
  struct Expected {
    Json rope;
    std::vector<float> frequencies;
    float factor = 1;
  };
  const std::vector<float> plain{1, 0.21544345F, 0.046415884F, 0.01F, 0.0021544343F, 0.00046415895F};
  const Expected table[] = {
      {{{"rope_type", "default"}}, plain},
      {{{"rope_type", "dynamic"}, {"factor", 4.0}}, plain},
      {{{"rope_type", "linear"}, {"factor", 4.0}},
       {0.25F, 0.053860862F, 0.011603971F, 0.0025F, 0.00053860858F, 0.00011603974F}},
      {{{"rope_type", "llama3"},
        {"rope_theta", 1000.0},
        {"factor", 8.0},
        {"low_freq_factor", 1.0},
        {"high_freq_factor", 4.0},
        {"original_max_position_embeddings", 64}},
       {1, 0.24438459F, 0.013042253F, 0.0039528473F, 0.00125F, 0.00039528476F}},
      {{{"rope_type", "yarn"}, {"factor", 4.0}, {"original_max_position_embeddings", 512}},
       {1, 0.16158257F, 0.02320794F, 0.0025F, 0.00053860858F, 0.00011603974F},
       1.1386294F},
      {{{"rope_type", "yarn"},
        {"factor", 4.0},
        {"original_max_position_embeddings", 512},
        {"beta_fast", 16},
        {"beta_slow", 2},
        {"mscale", 1.0},
        {"mscale_all_dim", 0.5},
        {"truncate", false}},
       {1, 0.21544345F, 0.022271112F, 0.0025F, 0.00053860858F, 0.00011603974F},
       1.0648216F},
      {{{"rope_type", "yarn"}, {"factor", 4.0}, {"attention_factor", 0.5}},
       {1, 0.21544345F, 0.03481191F, 0.005F, 0.00053860858F, 0.00011603974F},
       0.5F},
  };
  for (const Expected& e : table) {
    SCOPED_TRACE(e.rope.dump());
    Json json = tiny("llama");
    json["rope_parameters"] = e.rope;
    const Rope rope = parse(json).config.attention_types.at(0).rope;
    ASSERT_EQ(rope.frequencies.size(), e.frequencies.size());
    for (std::size_t i = 0; i < e.frequencies.size(); i++)
      EXPECT_NEAR(rope.frequencies[i], e.frequencies[i], 1e-6F * e.frequencies[i]);
    EXPECT_NEAR(rope.attention_factor, e.factor, 1e-6F);
  }
}

TEST(Config, WhatIsNotSupportedIsRefusedByName) {
  struct Refused {
    const char* model_type;
    const char* key;
    Json value;
    const char* named;
  };
  const Json longrope{{"rope_type", "longrope"}, {"short_factor", {1}}, {"long_factor", {1}}};
  const Json partial{{"rope_type", "default"}, {"partial_rotary_factor", 0.5}};
  const Refused table[] = {
      {"llama", "hidden_act", "quick_gelu", "quick_gelu"},
      {"gemma2", "hidden_activation", "mish", "mish"},
      {"llama", "rope_scaling", longrope, "longrope"},
      {"llama", "rope_scaling", {{"type", "su"}}, "'su'"},
      {"llama", "rope_parameters", partial, "rope_parameters.partial_rotary_factor"},
      {"llama", "partial_rotary_factor", 0.25, "partial_rotary_factor"},
      {"llama", "quantization_config", {{"quant_method", "gptq"}}, "quantization_config"},
      {"gemma3_text", "use_bidirectional_attention", true, "use_bidirectional_attention"},
      {"qwen2", "num_experts", 8, "num_experts"},
      {"llama", "architectures", {"LlamaForSequenceClassification"}, "LlamaForSequenceClassification"},
      {"llama", "layer_types", Json(4, "sliding_attention"), "sliding_attention"},
      {"qwen2", "layer_types", Json(4, "chunked_attention"), "chunked_attention"},
      {"gemma3_text", "rope_parameters", {{"rope_theta", 5.0}}, "rope_parameters"},
      {"gemma3_text", "rope_scaling", {{"type", "linear"}, {"factor", 8.0}}, "rope_scaling.type"},
  };
  for (const Refused& r : table) {
    Json json = tiny(r.model_type);
    json[r.key] = r.value;
    const std::string message = refusal(json);
    EXPECT_NE(message.find("config.json"), std::string::npos) << r.key << ": " << message;
    EXPECT_NE(message.find(r.named), std::string::npos) << r.key << ": " << message;
  }
  for (const char* type : {"mixtral", "gpt2", "phi3", "fathom"})
    EXPECT_NE(refusal(tiny(type)).find(std::string("'") + type + "'"), std::string::npos);
}

TEST(Config, SizesOutOfRangeAreRefusedByName) {
  const std::pair<const char*, Json> table[] = {{"vocab_size", 1 << 25},
                                                {"vocab_size", -1},
                                                {"hidden_size", 0},
                                                {"hidden_size", 1.5},
                                                {"intermediate_size", "32"},
                                                {"num_hidden_layers", 5000},
                                                {"num_attention_heads", 0},
                                                {"num_key_value_heads", 3},
                                                {"head_dim", 7},
                                                {"head_dim", 0},
                                                {"max_position_embeddings", 1e18},
                                                {"rms_norm_eps", -1},
                                                {"eos_token_id", Json::array({"x"})},
                                                {"eos_token_id", -7},
                                                {"rope_theta", 0},
                                                {"tie_word_embeddings", 3},
                                                {"layer_types", "full_attention"}};
  for (const auto& [key, value] : table) {
    Json json = tiny("llama");
    json[key] = value;
    EXPECT_NE(refusal(json).find(key), std::string::npos) << key << " = " << value << ": " << refusal(json);
  }
}

TEST(Config, LayerTypesThatAreWrittenAreReadBack) {
  for (const char* type : {"qwen2", "qwen3", "gemma2", "gemma3_text"}) {
    SCOPED_TRACE(type);
    Json json = tiny(type);
    json["sliding_window_pattern"] = 2;
    const ModelConfig config = parse(json).config;
    for (const std::vector<std::int64_t>& types :
         {std::vector<std::int64_t>{0, 1, 1}, {1, 1}, {1, 0, 0, 1, 0}, {0}}) {
      write_layer_types(json, config, types);
      EXPECT_EQ(parse(json).layer_types, types);
      EXPECT_EQ(parse(json).config, config);
      EXPECT_FALSE(json.contains("sliding_window_pattern"));
    }
  }
  Json qwen = tiny("qwen2");
  write_layer_types(qwen, parse(qwen).config, {0, 1, 1});
  EXPECT_EQ(qwen["max_window_layers"], 1);  // what transformers before 4.53 reads
}

TEST(Config, DamagedFilesGiveErrorsThatNameThem) {
  const test::Scratch scratch;
  const auto path = scratch / "config.json";
  for (const char* name : {"llama-rope-yarn", "gemma3", "qwen2-window"}) {
    const std::string original =
        read_file(std::filesystem::path(FATHOM_TEST_DATA) / "models" / name / "config.json");
    const int loaded = test::expect_survives_damage(path, original, 1500, [&] { load_config(path); });
    EXPECT_GT(loaded, 0);
    EXPECT_LT(loaded, 1500);
  }
}

}  // namespace
}  // namespace fathom
