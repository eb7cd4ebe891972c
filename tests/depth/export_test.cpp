// Models for other programs: unrolled, and as GGUF files. What Fathom reads from these must compute the same.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <map>

#include "base/error.h"
#include "base/file.h"
#include "depth/prune.h"
#include "depth/recur.h"
#include "depth/unroll.h"
#include "formats/gguf.h"
#include "message.h"
#include "model/gguf_save.h"
#include "model/peft.h"
#include "scratch.h"
#include "tiny.h"

namespace fathom {
namespace {

using testing::HasSubstr;

/// A relaxed recursive model: tied layers, and adapters where `rank` is not 0.
Checkpoint recursive_model(const std::string& name, std::int64_t rank,
                           Sharing sharing = Sharing::middle_sequence) {
  RecurOptions options;
  options.loops = 3;
  options.sharing = sharing;
  options.init = SharedInit::average;
  options.rank = rank;
  return recur(deep_model(name, sharing == Sharing::cycle ? 6 : 5), options, {});
}

class Unrolled : public testing::TestWithParam<std::string> {};
INSTANTIATE_TEST_SUITE_P(Models, Unrolled,
                         testing::Values("llama", "llama-odd-bias", "qwen3", "gemma2", "gemma3"),
                         [](const auto& test) {
                           std::string name = test.param;
                           std::replace(name.begin(), name.end(), '-', '_');
                           return name;
                         });

TEST_P(Unrolled, ComputesTheSame) {
  for (const std::int64_t rank : {0, 3}) {
    const Checkpoint model = recursive_model(GetParam(), rank);
    const Checkpoint plain = unroll(model, DType::f32);
    validate(plain);
    EXPECT_TRUE(plain.plan.is_plain());
    EXPECT_EQ(plain.plan.depth(), 5);
    const std::vector<Token> ids = random_text(model, 20);
    EXPECT_LT(largest_difference(logits_of(plain, ids), logits_of(model, ids)), 1e-3F);
    const test::Scratch scratch;
    save_checkpoint(plain, scratch / "out");
    EXPECT_EQ(logits_of(load_checkpoint(scratch / "out"), ids), logits_of(plain, ids));
  }
}

TEST(Unroll, MatricesWithoutAPairStayShared) {
  const Checkpoint model = recursive_model("llama", 0);
  const Checkpoint plain = unroll(model);
  EXPECT_EQ(plain.layer_tensor(1, "mlp.up_proj.weight").data.data(),
            plain.layer_tensor(3, "mlp.up_proj.weight").data.data());
}

TEST(Unroll, MergedMatricesHaveTheTypeAskedFor) {
  const Checkpoint model = recursive_model("llama", 3);
  const std::string name = "mlp.up_proj.weight";
  EXPECT_EQ(unroll(model).layer_tensor(1, name).dtype, DType::f32);
  EXPECT_EQ(unroll(model, DType::f16).layer_tensor(1, name).dtype, DType::f16);
  EXPECT_EQ(unroll(model, DType::f16).layer_tensor(0, name).dtype, DType::f32);  // visited once: as it was
}

class AsGguf : public testing::TestWithParam<std::string> {};
INSTANTIATE_TEST_SUITE_P(Models, AsGguf, testing::ValuesIn(oracle_names()), [](const auto& test) {
  std::string name = test.param;
  std::replace(name.begin(), name.end(), '-', '_');
  return name;
});

// llama.cpp's architectures do not have what these models have.
const std::map<std::string, std::string> refused = {{"qwen2", "head_dim is 8, not hidden_size"},
                                                    {"qwen2-gguf", "head_dim is 8, not hidden_size"},
                                                    {"qwen2-window", "head_dim is 8, not hidden_size"},
                                                    {"qwen3-bias", "o_proj has a bias (attention_bias)"}};

TEST_P(AsGguf, ComputesWhatTheOracleDid) {
  const Oracle oracle = load_oracle(GetParam());
  const Checkpoint model = load_checkpoint(oracle.model);
  const test::Scratch scratch;
  const std::string text = message([&] { save_gguf(model, scratch / "m.gguf"); });
  if (const auto expected = refused.find(GetParam()); expected != refused.end()) {
    EXPECT_THAT(text, HasSubstr(expected->second));
    EXPECT_THAT(text, HasSubstr("--to hf"));
    EXPECT_TRUE(std::filesystem::is_empty(scratch.path()));
    return;
  }
  ASSERT_EQ(text, "no error");
  EXPECT_LT(largest_difference(logits_of(load_checkpoint(scratch / "m.gguf"), oracle.ids), oracle.logits),
            2e-4F);
}

// Every other layer but one: windows of Gemma fall where no period puts them.
TEST_P(AsGguf, PrunedModelsToo) {
  if (refused.contains(GetParam())) GTEST_SKIP() << "is refused";
  const Checkpoint whole = deep_model(GetParam(), 7);
  const std::vector<std::int64_t> dropped = {1, 4};
  const Checkpoint model = prune(whole, dropped);
  const test::Scratch scratch;
  save_gguf(model, scratch / "m.gguf");
  const std::vector<Token> ids = random_text(model, 20);
  EXPECT_LT(largest_difference(logits_of(load_checkpoint(scratch / "m.gguf"), ids), logits_of(model, ids)),
            1e-3F);
}

/// A tiny Qwen 2 with as many heads of 8 as its 24 hidden values hold, 3 of 4, as all real ones have.
Checkpoint real_qwen2(const std::string& name) {
  Checkpoint model = load_checkpoint(load_oracle(name).model);
  model.config.heads = 3;
  model.config.kv_heads = 3;
  model.hf_config["num_attention_heads"] = 3;
  model.hf_config["num_key_value_heads"] = 3;
  for (std::int64_t layer = 0; layer < model.plan.layers; ++layer)
    for (const Linear linear : {Linear::q, Linear::k, Linear::v, Linear::o})
      for (const char* kind : {".weight", ".bias"}) {
        const auto found = model.tensors.find(layer_name(layer, std::string(linear_name(linear)) + kind));
        if (found == model.tensors.end()) continue;
        const std::vector<float> values = decode(found->second);
        Shape shape = {out_features(model.config, linear)};
        if (found->second.shape.size() == 2) shape.push_back(in_features(model.config, linear));
        std::vector<float> cut(static_cast<std::size_t>(element_count(shape)));
        for (std::size_t i = 0; i < cut.size(); ++i) cut[i] = values[i % values.size()];
        found->second = make_tensor(DType::f32, shape, cut);
      }
  validate(model);
  return model;
}

TEST(GgufSave, Qwen2ComputesTheSame) {
  const test::Scratch scratch;
  const Checkpoint model = real_qwen2("qwen2");
  save_gguf(model, scratch / "m.gguf");
  const std::vector<Token> ids = random_text(model, 20);
  EXPECT_LT(largest_difference(logits_of(load_checkpoint(scratch / "m.gguf"), ids), logits_of(model, ids)),
            1e-4F);
  EXPECT_THAT(message([&] { save_gguf(real_qwen2("qwen2-window"), scratch / "w.gguf"); }),
              HasSubstr("layers have a window (sliding_window 6)"));
}

TEST(GgufSave, QuantisedTensorsAreCopiedAndOthersBecomeWhatIsAsked) {
  const test::Scratch scratch;
  const Checkpoint model = load_checkpoint(load_oracle("llama-wide").model);
  for (const DType type : {DType::f32, DType::f16, DType::bf16, DType::q8_0, DType::q4_0}) {
    save_gguf(model, scratch / "m.gguf", true, type);
    const GgufFile file(scratch / "m.gguf");
    EXPECT_EQ(file.tensors().at("blk.0.attn_q.weight").dtype, type);
    EXPECT_EQ(file.tensors().at("blk.0.attn_norm.weight").dtype, DType::f32);
    const bool four_bits = type == DType::q4_0;
    EXPECT_EQ(file.tensors().at(model.config.tied_embeddings ? "token_embd.weight" : "output.weight").dtype,
              four_bits ? DType::q8_0 : type);
    if (!four_bits) continue;
    // Once more, as it is: the same file but for its name.
    save_gguf(load_checkpoint(scratch / "m.gguf"), scratch / "again.gguf");
    const GgufFile again(scratch / "again.gguf");
    for (const auto& [name, tensor] : file.tensors()) {
      const Tensor& copy = again.tensors().at(name);
      EXPECT_EQ(copy.dtype, tensor.dtype) << name;
      EXPECT_TRUE(std::ranges::equal(copy.data, tensor.data)) << name;
    }
    EXPECT_EQ(again.metadata(), file.metadata());
  }
}

TEST(GgufSave, WhatIsThereStaysUnlessItIsToBeReplaced) {
  const test::Scratch scratch;
  const Checkpoint model = load_checkpoint(load_oracle("llama").model);
  write_file(scratch / "m.gguf", "mine");
  EXPECT_THAT(message([&] { save_gguf(model, scratch / "m.gguf"); }),
              HasSubstr("is there already; give --overwrite"));
  EXPECT_EQ(read_file(scratch / "m.gguf"), "mine");
  Checkpoint damaged = model;
  std::vector<float> values = decode(model.head());
  values[5] = NAN;
  damaged.tensors["lm_head.weight"] = make_tensor(DType::f32, model.head().shape, values);
  EXPECT_THAT(message([&] { save_gguf(damaged, scratch / "m.gguf", true); }), HasSubstr("no finite number"));
  EXPECT_EQ(read_file(scratch / "m.gguf"), "mine");
  save_gguf(model, scratch / "m.gguf", true);
  EXPECT_TRUE(is_gguf(scratch / "m.gguf"));
  std::filesystem::remove(scratch / "m.gguf");
  EXPECT_TRUE(std::filesystem::is_empty(scratch.path()));
  EXPECT_THAT(message([&] { save_gguf(model, scratch.path(), true); }), HasSubstr("is no file"));
}

TEST(GgufSave, APlanThatDoesNotFitIsRefused) {
  const test::Scratch scratch;
  for (const Checkpoint& model : {recursive_model("llama", 0), recursive_model("llama", 2, Sharing::cycle),
                                  recursive_model("qwen3", 0, Sharing::cycle)}) {
    EXPECT_FALSE(fits_gguf(model));
    EXPECT_THAT(message([&] { save_gguf(model, scratch / "m.gguf"); }), HasSubstr("the model's plan is "));
  }
}

TEST(GgufSave, LoopsOverALlamaStaySmall) {
  for (const char* name : {"llama", "llama-rope-llama3"}) {
    const test::Scratch scratch;
    const Checkpoint model = recursive_model(name, 0, Sharing::cycle);
    ASSERT_TRUE(fits_gguf(model));
    save_gguf(model, scratch / "m.gguf");
    const GgufFile file(scratch / "m.gguf");
    EXPECT_EQ(file.string("general.architecture"), "nanbeige");
    EXPECT_EQ(file.integer("nanbeige.block_count", 1, 9), 2);
    EXPECT_EQ(file.integer("nanbeige.num_loops", 1, 9), 3);
    EXPECT_TRUE(std::get<bool>(file.metadata().at("nanbeige.skip_loop_final_norm")));
    const Checkpoint back = load_checkpoint(scratch / "m.gguf");
    EXPECT_EQ(back.plan, model.plan);
    const std::vector<Token> ids = random_text(model, 20);
    EXPECT_LT(largest_difference(logits_of(back, ids), logits_of(model, ids)), 1e-4F);
  }
}

/// Adapters for every layer, some ranks clipped.
Checkpoint adapted_model(const std::string& name) {
  Checkpoint model = load_checkpoint(load_oracle(name).model);
  Random random(3);
  const auto matrix = [&](std::int64_t rows, std::int64_t columns) {
    std::vector<float> values(static_cast<std::size_t>(rows * columns));
    for (float& value : values) value = static_cast<float>(0.2 * random.normal());
    return make_tensor(DType::f32, {rows, columns}, values);
  };
  for (std::int64_t i = 0; i < model.plan.depth(); ++i) {
    model.plan.visits[static_cast<std::size_t>(i)].adapter = i;
    for (const Linear linear : {Linear::q, Linear::k, Linear::down}) {
      if (linear == Linear::k && i == 0) continue;  // not in all layers
      const std::int64_t rank = linear == Linear::q ? 2 : 3;
      const std::string map = adapter_name(i, linear_name(linear));
      model.tensors[map + ".lora_A.weight"] = matrix(rank, in_features(model.config, linear));
      model.tensors[map + ".lora_B.weight"] = matrix(out_features(model.config, linear), rank);
    }
  }
  validate(model);
  return model;
}

TEST(Peft, AdaptersGoOutAndComeBack) {
  const test::Scratch scratch;
  const Checkpoint model = adapted_model("llama"), base = load_checkpoint(load_oracle("llama").model);
  save_peft(model, scratch / "adapters");
  const Json config = read_json(scratch / "adapters" / "adapter_config.json");
  EXPECT_EQ(config["r"], 3);
  EXPECT_EQ(config["lora_alpha"], 3);
  EXPECT_EQ(config["rank_pattern"]["model.layers.0.self_attn.q_proj"], 2);
  EXPECT_EQ(config["rank_pattern"], config["alpha_pattern"]);
  const Checkpoint back = with_peft(base, scratch / "adapters");
  const std::vector<Token> ids = random_text(model, 20);
  EXPECT_EQ(logits_of(back, ids), logits_of(model, ids));
  EXPECT_THAT(message([&] { save_peft(model, scratch / "adapters"); }), HasSubstr("holds adapters already"));
  save_peft(model, scratch / "adapters", true);
}

TEST(Peft, AdaptersAreScaledAsTheirConfigurationSays) {
  const test::Scratch scratch;
  const Checkpoint model = adapted_model("llama"), base = load_checkpoint(load_oracle("llama").model);
  save_peft(model, scratch.path());
  Json config = read_json(scratch / "adapter_config.json");
  const std::string up = "self_attn.q_proj.lora_B.weight", down = "mlp.down_proj.lora_B.weight";
  const auto factor = [&](const std::string& name) {
    write_file(scratch / "adapter_config.json", config.dump());
    const Checkpoint read = with_peft(base, scratch.path());
    return decode(*read.adapter_tensor(1, name))[0] / decode(*model.adapter_tensor(1, name))[0];
  };
  config["lora_alpha"] = 6;
  config["alpha_pattern"] = {{"q_proj", 8}};
  EXPECT_FLOAT_EQ(factor(up), 4);    // 8 / 2
  EXPECT_FLOAT_EQ(factor(down), 2);  // 6 / 3
  config["use_rslora"] = true;
  EXPECT_FLOAT_EQ(factor(down), 6 / std::sqrt(3.0F));
}

TEST(Peft, WhatItCannotSayOrFathomCannotReadIsRefusedByName) {
  const test::Scratch scratch;
  EXPECT_THAT(message([&] { save_peft(recursive_model("llama", 2), scratch / "a"); }),
              HasSubstr("several visits share a layer"));
  EXPECT_THAT(message([&] { save_peft(load_checkpoint(load_oracle("llama").model), scratch / "a"); }),
              HasSubstr("has no adapters"));
  Checkpoint normed = adapted_model("llama");
  normed.tensors[adapter_name(0, "input_layernorm.weight")] =
      normed.layer_tensor(0, "input_layernorm.weight");
  EXPECT_THAT(message([&] { save_peft(normed, scratch / "a"); }),
              HasSubstr("a norm of its own (input_layernorm)"));
  EXPECT_TRUE(std::filesystem::is_empty(scratch.path()));

  const Checkpoint base = load_checkpoint(load_oracle("llama").model);
  save_peft(adapted_model("llama"), scratch.path());
  const Json config = read_json(scratch / "adapter_config.json");
  const auto refusal = [&](const char* key, const Json& value) {
    Json changed = config;
    changed[key] = value;
    write_file(scratch / "adapter_config.json", changed.dump());
    return message([&] { with_peft(base, scratch.path()); });
  };
  EXPECT_THAT(refusal("peft_type", "IA3"), HasSubstr("field 'peft_type' is 'IA3'"));
  EXPECT_THAT(refusal("use_dora", true), HasSubstr("field 'use_dora' is true"));
  EXPECT_THAT(refusal("modules_to_save", {"lm_head"}), HasSubstr("field 'modules_to_save' is set"));
  EXPECT_THAT(refusal("alpha_pattern", {{".*q_proj", 3}}), HasSubstr("is a regular expression"));
  EXPECT_EQ(refusal("lora_dropout", 0.1), "no error");
  EXPECT_NE(message([&] { with_peft(load_checkpoint(load_oracle("qwen3").model), scratch.path()); }),
            "no error");
}

}  // namespace
}  // namespace fathom
