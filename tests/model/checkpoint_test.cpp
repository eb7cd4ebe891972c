// Directories and GGUF files: what is read, checked, written and counted.
#include "model/checkpoint.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <fstream>
#include <limits>

#include "base/error.h"
#include "base/file.h"
#include "damage.h"
#include "formats/safetensors.h"
#include "oracle.h"
#include "scratch.h"

namespace fathom {
namespace {

namespace fs = std::filesystem;
using testing::HasSubstr;

Checkpoint load(const std::string& name) { return load_checkpoint(load_oracle(name).model); }

std::string message_of(const std::function<void()>& action) {
  try {
    action();
  } catch (const Error& e) {
    return e.what();
  }
  return "";
}

void expect_same_tensors(const Checkpoint& a, const Checkpoint& b, float tolerance) {
  ASSERT_EQ(a.tensors.size(), b.tensors.size());
  for (const auto& [name, tensor] : a.tensors) {
    ASSERT_NE(b.find(name), nullptr) << name;
    EXPECT_EQ(tensor.shape, b.tensor(name).shape) << name;
    EXPECT_LE(largest_difference(decode(tensor), decode(b.tensor(name))), tolerance) << name;
  }
}

/// Two layers of llama visited twice each, every visit with a rank-2 pair on q and a norm of its own.
Checkpoint relaxed() {
  Checkpoint checkpoint = load("llama");
  for (auto it = checkpoint.tensors.lower_bound("model.layers.2.");
       it != checkpoint.tensors.end() && it->first.starts_with("model.layers.2.");)
    it = checkpoint.tensors.erase(it);
  checkpoint.plan = DepthPlan{.layers = 2, .visits = {}};
  for (std::int64_t i = 0; i < 4; i++) checkpoint.plan.visits.push_back({.layer = i % 2, .adapter = i});
  const ModelConfig& c = checkpoint.config;
  const auto make = [](Shape shape) {
    const std::vector<float> values(static_cast<std::size_t>(element_count(shape)), 0.5F);
    return make_tensor(DType::f32, std::move(shape), values);
  };
  for (std::int64_t i = 0; i < 4; i++) {
    checkpoint.tensors[adapter_name(i, "self_attn.q_proj.lora_A.weight")] = make({2, c.hidden_size});
    checkpoint.tensors[adapter_name(i, "self_attn.q_proj.lora_B.weight")] = make({c.heads * c.head_dim, 2});
    checkpoint.tensors[adapter_name(i, "input_layernorm.weight")] = make({c.hidden_size});
  }
  return checkpoint;
}

TEST(Checkpoint, EveryOracleModelLoads) {
  for (const std::string& name : oracle_names()) {
    SCOPED_TRACE(name);
    const Oracle oracle = load_oracle(name);
    const Checkpoint checkpoint = load_checkpoint(oracle.model);
    EXPECT_EQ(checkpoint.plan.depth() + 1, static_cast<std::int64_t>(oracle.hidden.size()));
    EXPECT_EQ(checkpoint.config.vocab_size * static_cast<std::int64_t>(oracle.ids.size()),
              static_cast<std::int64_t>(oracle.logits.size()));
    EXPECT_EQ(checkpoint.find("lm_head.weight") == nullptr, checkpoint.config.tied_embeddings);
  }
}

TEST(Checkpoint, GgufAndDirectoryOfOneConfigurationAgree) {
  const Checkpoint gguf = load("llama-rope-llama3-gguf");
  const Checkpoint directory = load("llama-rope-llama3");
  EXPECT_EQ(gguf.config.attention_types, directory.config.attention_types);  // llama3 found in its divisors
  EXPECT_EQ(gguf.layer_tensor(0, "self_attn.q_proj.weight").interleaved_heads, gguf.config.heads);
  EXPECT_EQ(gguf.layer_tensor(0, "self_attn.k_proj.weight").interleaved_heads, gguf.config.kv_heads);
  EXPECT_EQ(gguf.layer_tensor(0, "self_attn.v_proj.weight").interleaved_heads, 0);
  const Checkpoint biased = load("llama-odd-bias-gguf");
  EXPECT_EQ(biased.layer_tensor(0, "self_attn.q_proj.bias").interleaved_heads, biased.config.heads);
  EXPECT_EQ(load("gemma-gguf").tensor("model.norm.weight").decoded_offset, -1);
  EXPECT_EQ(load("qwen2-gguf").layer_tensor(0, "self_attn.q_proj.weight").interleaved_heads, 0);
}

TEST(Checkpoint, EndTokensComeFromBothFiles) {
  const test::Scratch scratch;
  fs::copy(load_oracle("llama").model, scratch / "m");
  const auto ends_with = [&](const char* generation, const Json& config_ends) {
    write_file(scratch / "m" / "generation_config.json", generation);
    Json json = read_json(scratch / "m" / "config.json");
    json["eos_token_id"] = config_ends;
    write_file(scratch / "m" / "config.json", json.dump());
    return load_checkpoint(scratch / "m").config.end_tokens;
  };
  EXPECT_THAT(ends_with(R"({"eos_token_id": [7, 2]})", {2, 5}), testing::ElementsAre(2, 5, 7));
  EXPECT_THAT(ends_with(R"({"eos_token_id": -1})", nullptr), testing::IsEmpty());  // none, in many files
  EXPECT_THAT(ends_with(R"({"eos_token_id": [null, -1, 3]})", -1), testing::ElementsAre(3));
  EXPECT_THROW(ends_with(R"({"eos_token_id": -2})", 2), Error);
}

TEST(Checkpoint, MissingMisshapenAndUnknownTensorsAreNamed) {
  const std::string q = "model.layers.1.self_attn.q_proj.weight";
  Checkpoint checkpoint = load("llama");
  checkpoint.tensors.erase(q);
  EXPECT_NE(message_of([&] { validate(checkpoint); }).find("'" + q + "' is missing"), std::string::npos);

  checkpoint = load("llama");
  checkpoint.tensors[q] = make_tensor(DType::f32, {1, 2}, std::vector<float>{1, 2});
  EXPECT_NE(message_of([&] { validate(checkpoint); }).find("'" + q + "' has shape [1, 2], expected"),
            std::string::npos);

  checkpoint = load("llama");
  checkpoint.tensors["model.layers.0.self_attn.q_norm.weight"] = checkpoint.tensor(q);
  EXPECT_NE(message_of([&] { validate(checkpoint); }).find("q_norm"), std::string::npos);
}

TEST(Checkpoint, AMissingTensorIsExplainedByWhatIsThere) {
  const test::Scratch scratch;
  const fs::path original = load_oracle("llama").model;
  fs::create_directory(scratch / "m");
  fs::copy_file(original / "config.json", scratch / "m" / "config.json");
  const auto message_with = [&](const std::string& from, const std::string& to) {
    std::string bytes = read_file(original / "model.safetensors");
    for (std::size_t at = bytes.find(from); at != std::string::npos; at = bytes.find(from, at + to.size()))
      bytes.replace(at, from.size(), to);
    write_file(scratch / "m" / "model.safetensors", bytes);
    return message_of([&] { load_checkpoint(scratch / "m"); });
  };
  EXPECT_THAT(
      message_with("1.self_attn.q_proj.weight", "1.self_attn.q_proj.qeight"),
      HasSubstr("'model.layers.1.self_attn.q_proj.weight' is missing; what such a model does not have "
                "is there: 'model.layers.1.self_attn.q_proj.qeight'"));
  EXPECT_THAT(
      message_with("0.mlp.up_proj.weight\":{\"dtype\":\"F32\"", "0.mlp.up_proj.weight\":{\"dtype\":\"I32\""),
      HasSubstr("'model.layers.0.mlp.up_proj.weight' is of type I32, which is not read"));
  EXPECT_THAT(message_with("lm_head.weight", "lm_dead.weight"), HasSubstr("let tie_word_embeddings"));
}

TEST(Checkpoint, NamesMayStandUnderAPrefix) {
  const test::Scratch scratch;
  const fs::path original = load_oracle("llama").model;
  const TensorMap tensors = read_safetensors(original / "model.safetensors");
  fs::create_directory(scratch / "m");
  fs::copy_file(original / "config.json", scratch / "m" / "config.json");
  const auto expect_loads = [&](auto renamed) {
    std::vector<std::pair<std::string, Tensor>> others;
    for (const auto& [name, tensor] : tensors) others.emplace_back(renamed(name), tensor);
    write_safetensors(scratch / "m" / "model.safetensors", others);
    SCOPED_TRACE(others.back().first);
    expect_same_tensors(load_checkpoint(scratch / "m"), load("llama"), 0);
  };
  for (const char* prefix : {"", "_orig_mod.", "module.", "module._orig_mod.", "model.", "language_model.",
                             "base_model.model.", "student."})
    expect_loads([&](const std::string& name) { return prefix + name; });
  for (const char* body : {"", "model.language_model.", "transformer."})
    expect_loads(
        [&](const std::string& name) { return name.starts_with("model.") ? body + name.substr(6) : name; });
  expect_loads([](const std::string& name) {  // each layer compiled by itself
    return name.starts_with("model.layers.") ? name.substr(0, 15) + "_orig_mod." + name.substr(15) : name;
  });
}

TEST(Checkpoint, AHeadIsTiedOnlyWhereTheTensorsAllowIt) {
  const test::Scratch scratch;
  const fs::path original = load_oracle("llama-own-head").model;  // tied by its configuration
  EXPECT_FALSE(load("llama-own-head").config.tied_embeddings);
  save_checkpoint(load("llama-own-head"), scratch / "saved");
  EXPECT_EQ(read_json(scratch / "saved" / "config.json")["tie_word_embeddings"], false);
  expect_same_tensors(load_checkpoint(scratch / "saved"), load("llama-own-head"), 0);

  TensorMap tensors = read_safetensors(original / "model.safetensors");
  fs::create_directory(scratch / "m");
  fs::copy_file(original / "config.json", scratch / "m" / "config.json");
  const auto load_with = [&] {
    write_safetensors(scratch / "m" / "model.safetensors", {tensors.begin(), tensors.end()});
    return load_checkpoint(scratch / "m");
  };
  const Tensor head = tensors.at("lm_head.weight");
  tensors["lm_head.weight"] = tensors.at("model.embed_tokens.weight");
  EXPECT_TRUE(load_with().config.tied_embeddings);  // the same twice
  tensors["lm_head.weight"] = make_tensor(DType::f32, head.shape, decode(head));
  tensors.erase("model.embed_tokens.weight");
  const Checkpoint only_head = load_with();  // transformers ties what is missing to what is there
  EXPECT_TRUE(only_head.config.tied_embeddings);
  EXPECT_EQ(decode(only_head.tensor("model.embed_tokens.weight")), decode(head));
  tensors["model.embed_tokens.weight"] = head;
  tensors["lm_head.weight"] = make_tensor(DType::f32, {1, 2}, std::vector<float>{1, 2});
  EXPECT_NE(message_of(load_with).find("'lm_head.weight' has shape [1, 2], expected"), std::string::npos);
}

TEST(Checkpoint, BiasesAreThereOrNotByTheTensors) {
  const test::Scratch scratch;
  const Checkpoint some = load("llama-some-biases");
  EXPECT_EQ(some.layer_tensor(1, "self_attn.k_proj.bias").shape, (Shape{12}));  // zero: the file has none
  EXPECT_THAT(decode(some.layer_tensor(1, "self_attn.k_proj.bias")), testing::Each(0.0F));
  EXPECT_THAT(decode(some.layer_tensor(0, "self_attn.k_proj.bias")), testing::Contains(testing::Ne(0.0F)));

  // Whatever the configuration says of them.
  const auto with_config = [&](const std::string& name, bool attention, bool mlp) {
    const fs::path path = scratch / fmt::format("{}{}{}", name, attention, mlp);
    fs::copy(load_oracle(name).model, path);
    Json json = read_json(path / "config.json");
    json["attention_bias"] = attention;
    json["mlp_bias"] = mlp;
    write_file(path / "config.json", json.dump());
    return load_checkpoint(path);
  };
  for (const auto& [attention, mlp] :
       {std::pair(false, false), std::pair(true, false), std::pair(true, true)}) {
    const Checkpoint same = with_config("llama-some-biases", attention, mlp);
    EXPECT_EQ(same.config, some.config);
    expect_same_tensors(same, some, 0);
    const Checkpoint none = with_config("llama", attention, mlp);
    EXPECT_EQ(none.config, load("llama").config);
    expect_same_tensors(none, load("llama"), 0);
  }

  // What an architecture has no word for is refused by name.
  fs::copy(load_oracle("llama-some-biases").model, scratch / "mistral");
  Json json = read_json(scratch / "mistral" / "config.json");
  json["model_type"] = "mistral";
  write_file(scratch / "mistral" / "config.json", json.dump());
  EXPECT_NE(
      message_of([&] { load_checkpoint(scratch / "mistral"); }).find("proj.bias' is not part of a 'mistral'"),
      std::string::npos);
}

TEST(Checkpoint, TablesOfOldVersionsAndAHeadLikeTheEmbeddingAreIgnored) {
  const test::Scratch scratch;
  const fs::path original = load_oracle("gemma").model;
  fs::create_directory(scratch / "m");
  fs::copy_file(original / "config.json", scratch / "m" / "config.json");
  std::vector<std::pair<std::string, Tensor>> tensors;
  for (const auto& [name, tensor] : read_safetensors(original / "model.safetensors"))
    tensors.emplace_back(name, tensor);
  const Tensor extra = make_tensor(DType::f32, {2}, std::vector<float>{1, 2});
  tensors.emplace_back("model.layers.0.self_attn.rotary_emb.inv_freq", extra);
  tensors.emplace_back("lm_head.weight", load("gemma").tensor("model.embed_tokens.weight"));
  write_safetensors(scratch / "m" / "model.safetensors", tensors);
  expect_same_tensors(load_checkpoint(scratch / "m"), load("gemma"), 0);
}

TEST(Checkpoint, AbsentHeadIsTiedOnlyWhereTheConfigurationIsSilent) {
  const test::Scratch scratch;
  const fs::path path = scratch / "m";
  save_checkpoint(load("llama-rope-llama3"), path);  // tied
  Json json = read_json(path / "config.json");
  json.erase("tie_word_embeddings");
  write_file(path / "config.json", json.dump());
  EXPECT_TRUE(load_checkpoint(path).config.tied_embeddings);
  json["tie_word_embeddings"] = false;
  write_file(path / "config.json", json.dump());
  EXPECT_NE(message_of([&] { load_checkpoint(path); }).find("lm_head.weight"), std::string::npos);
}

TEST(Checkpoint, TheLanguageModelOfGemma3WithVisionRunsAlone) {
  const test::Scratch scratch;
  const fs::path original = load_oracle("gemma3").model;
  Json text = read_json(original / "config.json");
  text.erase("model_type");
  fs::create_directory(scratch / "m");
  write_file(scratch / "m" / "config.json", Json{{"model_type", "gemma3"},
                                                 {"architectures", {"Gemma3ForConditionalGeneration"}},
                                                 {"text_config", text},
                                                 {"vision_config", {{"hidden_size", 8}}}}
                                                .dump());
  std::vector<std::pair<std::string, Tensor>> tensors;
  for (const auto& [name, tensor] : read_safetensors(original / "model.safetensors"))
    tensors.emplace_back("language_model." + name, tensor);
  tensors.emplace_back("vision_tower.patch.weight", tensors[0].second);
  write_safetensors(scratch / "m" / "model.safetensors", tensors);
  const Checkpoint checkpoint = load_checkpoint(scratch / "m");
  EXPECT_EQ(checkpoint.config, load("gemma3").config);
  expect_same_tensors(checkpoint, load("gemma3"), 0);
}

TEST(Save, EveryOracleModelComesBack) {
  const test::Scratch scratch;
  for (const std::string& name : oracle_names()) {
    SCOPED_TRACE(name);
    const Checkpoint original = load(name);
    save_checkpoint(original, scratch / name, false, DType::f32);
    const Checkpoint copy = load_checkpoint(scratch / name);
    EXPECT_EQ(copy.config, original.config);
    EXPECT_EQ(copy.plan, original.plan);
    expect_same_tensors(original, copy, 0);
  }
}

TEST(Save, PrunedModelsSpeakOfTheLayersTheyHave) {
  const test::Scratch scratch;
  for (const char* name : {"qwen2-window", "gemma2", "gemma3-gguf", "llama", "mistral-window"}) {
    SCOPED_TRACE(name);
    Checkpoint pruned = load(name);
    pruned.plan.visits.pop_back();
    pruned.plan.layers--;
    const std::string last = layer_name(pruned.plan.layers, "");
    std::erase_if(pruned.tensors, [&](const auto& entry) { return entry.first.starts_with(last); });
    save_checkpoint(pruned, scratch / name);
    const Json json = read_json(scratch / name / "config.json");
    EXPECT_EQ(json["num_hidden_layers"], pruned.plan.layers);
    EXPECT_TRUE(!json.contains("layer_types") || json["layer_types"].size() == json["num_hidden_layers"]);
    EXPECT_EQ(load_checkpoint(scratch / name).plan, pruned.plan);
  }
}

TEST(Save, RecursiveModelsAreRefusedByOtherToolsByName) {
  const test::Scratch scratch;
  Checkpoint original = relaxed();
  original.provenance = Json::array({{{"command", "recur"}}});
  save_checkpoint(original, scratch / "m");
  const Json json = read_json(scratch / "m" / "config.json");
  EXPECT_EQ(json["model_type"], "fathom");
  EXPECT_EQ(json["fathom"]["base_model_type"], "llama");
  EXPECT_EQ(json["num_hidden_layers"], 2);
  const Checkpoint copy = load_checkpoint(scratch / "m");
  EXPECT_EQ(copy.config, original.config);
  EXPECT_EQ(copy.plan, original.plan);
  EXPECT_EQ(copy.provenance, original.provenance);
  expect_same_tensors(original, copy, 0);
}

TEST(Save, LargeModelsAreSharded) {
  const test::Scratch scratch;
  const Checkpoint original = load("llama");
  save_checkpoint(original, scratch / "m", false, DType::bf16, 20'000);
  EXPECT_FALSE(fs::exists(scratch / "m" / "model.safetensors"));
  const Json index = read_json(scratch / "m" / "model.safetensors.index.json");
  EXPECT_EQ(index["weight_map"].size(), original.tensors.size());
  EXPECT_EQ(index["metadata"]["total_size"], count_parameters(original).bytes);
  expect_same_tensors(original, load_checkpoint(scratch / "m"), 0);
}

TEST(Save, KeepsWhatIsNotAModelAndReplacesAModelOnlyWhenAsked) {
  const test::Scratch scratch;
  const fs::path path = scratch / "m";
  fs::create_directory(path);
  write_file(path / "notes.txt", "mine");
  EXPECT_THROW(save_checkpoint(load("llama"), path, true), Error);  // no model there
  EXPECT_EQ(read_file(path / "notes.txt"), "mine");

  fs::remove(path / "notes.txt");
  save_checkpoint(load("llama"), path, false, DType::bf16, 20'000);
  write_file(path / "notes.txt", "mine");
  EXPECT_THROW(save_checkpoint(load("gemma"), path), Error);
  EXPECT_EQ(load_checkpoint(path).config.architecture, "llama");
  save_checkpoint(load("gemma"), path, true);
  EXPECT_EQ(load_checkpoint(path).config.architecture, "gemma");
  EXPECT_EQ(read_file(path / "notes.txt"), "mine");
  EXPECT_FALSE(fs::exists(path / "model.safetensors.index.json"));
}

TEST(Save, WhatIsNotFiniteIsNotWrittenAtAll) {
  const test::Scratch scratch;
  Checkpoint checkpoint = load("llama");
  Tensor& norm = checkpoint.tensors.at("model.layers.1.input_layernorm.weight");
  std::vector<float> values = decode(norm);
  values[5] = std::numeric_limits<float>::quiet_NaN();
  norm = make_tensor(DType::f32, norm.shape, values);
  EXPECT_NE(message_of([&] {
              save_checkpoint(checkpoint, scratch / "m");
            }).find("'model.layers.1.input_layernorm.weight' would hold nan"),
            std::string::npos);
  EXPECT_TRUE(fs::is_empty(scratch.path()));
}

TEST(Save, EveryFileOfATokenizerComesAlong) {
  const test::Scratch scratch;
  fs::copy(load_oracle("llama").model, scratch / "m");
  const auto files = {"tokenizer.model",
                      "tokenizer_config.json",
                      "special_tokens_map.json",
                      "added_tokens.json",
                      "vocab.json",
                      "merges.txt",
                      "chat_template.jinja"};
  for (const char* name : files) write_file(scratch / "m" / name, name);  // no tokenizer that Fathom reads
  fs::create_directory(scratch / "m" / "additional_chat_templates");
  write_file(scratch / "m" / "additional_chat_templates" / "tools.jinja", "tools");
  for (int times = 0; times < 2; times++) {
    save_checkpoint(load_checkpoint(scratch / "m"), scratch / "copy", times > 0);
    for (const char* name : files) EXPECT_EQ(read_file(scratch / "copy" / name), name);
    EXPECT_EQ(read_file(scratch / "copy" / "additional_chat_templates" / "tools.jinja"), "tools");
  }
}

TEST(Save, WhatCannotBeSaidIsNotWrittenAtAll) {
  const test::Scratch scratch;
  Checkpoint checkpoint = load("llama");
  checkpoint.config.attention_types[0].rope.frequencies[1] *= 1.5F;
  EXPECT_NE(message_of([&] { save_checkpoint(checkpoint, scratch / "m"); }).find("rotary"),
            std::string::npos);
  EXPECT_TRUE(fs::is_empty(scratch.path()));
}

TEST(Adapters, MustFitTheirMatrixAndTheirPartner) {
  EXPECT_NO_THROW(validate(relaxed()));
  const std::string down = adapter_name(1, "self_attn.q_proj.lora_A.weight");
  const std::string up = adapter_name(1, "self_attn.q_proj.lora_B.weight");
  const auto refused = [](Checkpoint checkpoint, const std::string& named) {
    EXPECT_NE(message_of([&] { validate(checkpoint); }).find(named), std::string::npos) << named;
  };
  Checkpoint checkpoint = relaxed();
  checkpoint.tensors.erase(up);
  refused(checkpoint, down);
  checkpoint = relaxed();
  checkpoint.tensors[up] = make_tensor(DType::f32, {2, 2}, std::vector<float>(4));
  refused(checkpoint, up);
  checkpoint = relaxed();
  const std::int64_t out = checkpoint.config.heads * checkpoint.config.head_dim;
  checkpoint.tensors[up] =
      make_tensor(DType::f32, {out, 3}, std::vector<float>(static_cast<std::size_t>(out * 3)));
  refused(checkpoint, down);
  checkpoint = relaxed();
  checkpoint.tensors[down] = make_tensor(DType::f32, {2, 3}, std::vector<float>(6));
  refused(checkpoint, down);
  checkpoint = relaxed();
  checkpoint.tensors[adapter_name(4, "input_layernorm.weight")] = checkpoint.tensor("model.norm.weight");
  refused(checkpoint, "model.adapters.4.");
  checkpoint = relaxed();
  checkpoint.tensors[adapter_name(1, "mlp.router.weight")] = checkpoint.tensor("model.norm.weight");
  refused(checkpoint, "mlp.router");
}

/// With an exit after the second visit, and all that an exit may have.
Checkpoint with_exit() {
  Checkpoint checkpoint = load("llama");
  checkpoint.plan.visits[1].exit = true;
  const std::int64_t width = checkpoint.config.hidden_size;
  const auto tensor = [](const Shape& shape) {
    std::vector<float> values(static_cast<std::size_t>(element_count(shape)));
    for (std::size_t i = 0; i < values.size(); ++i) values[i] = 0.01F * static_cast<float>(i);
    return make_tensor(DType::f32, shape, values);
  };
  checkpoint.exits[exit_name(1, "translator.weight")] = tensor({width, width});
  checkpoint.exits[exit_name(1, "translator.bias")] = tensor({width});
  checkpoint.exits[exit_name(1, "gate.weight")] = tensor({1, width});
  checkpoint.exits[exit_name(1, "gate.bias")] = tensor({1});
  checkpoint.exits[std::string(shortlist_name)] = make_tensor(DType::f32, {3}, std::vector<float>{0, 3, 7});
  return checkpoint;
}

TEST(ExitParts, LieInAFileOfTheirOwnBesideAnOrdinaryModel) {
  const test::Scratch scratch;
  const Checkpoint plain = load("llama"), model = with_exit();
  save_checkpoint(plain, scratch / "plain");
  save_checkpoint(model, scratch / "exits");
  // What other tools read is the same to the last byte.
  EXPECT_EQ(read_file(scratch / "plain" / "model.safetensors"),
            read_file(scratch / "exits" / "model.safetensors"));
  EXPECT_FALSE(fs::exists(scratch / "plain" / exits_file));
  const Checkpoint read = load_checkpoint(scratch / "exits");
  ASSERT_EQ(read.exits.size(), model.exits.size());
  for (const auto& [name, tensor] : model.exits)
    EXPECT_EQ(decode(read.exits.at(name)), decode(tensor)) << name;
  EXPECT_EQ(read.shortlist(), (std::vector<std::int64_t>{0, 3, 7}));
  const std::int64_t width = model.config.hidden_size;
  EXPECT_EQ(count_parameters(read).exits, width * width + width + width + 1);
  EXPECT_EQ(count_parameters(read).unrolled, count_parameters(plain).unrolled);
  // A model without that takes its place.
  save_checkpoint(plain, scratch / "exits", true);
  EXPECT_FALSE(fs::exists(scratch / "exits" / exits_file));
}

TEST(ExitParts, MustFitTheirExitAndTheirPartner) {
  EXPECT_NO_THROW(validate(with_exit()));
  const std::string weight = exit_name(1, "translator.weight"), gate = exit_name(1, "gate.weight");
  const auto refused = [](const auto& change, const std::string& named) {
    Checkpoint checkpoint = with_exit();
    change(checkpoint);
    EXPECT_THAT(message_of([&] { validate(checkpoint); }), HasSubstr(named));
  };
  const auto zeros = [](const Shape& shape) {
    return make_tensor(DType::f32, shape, std::vector<float>(static_cast<std::size_t>(element_count(shape))));
  };
  const std::int64_t width = with_exit().config.hidden_size;
  refused([](Checkpoint& c) { c.plan.visits[1].exit = false; }, "no exit of the plan");
  refused([&](Checkpoint& c) { c.exits.erase(exit_name(1, "translator.bias")); },
          "without model.exits.1.translator");
  refused([&](Checkpoint& c) { c.exits.erase(gate); }, "without model.exits.1.gate.weight");
  refused([&](Checkpoint& c) { c.exits[weight] = zeros({width, 2}); }, weight);
  refused([&](Checkpoint& c) { c.exits[exit_name(9, "gate.bias")] = zeros({1}); }, "model.exits.9.");
  refused([&](Checkpoint& c) { c.exits[exit_name(1, "router.weight")] = zeros({1}); }, "router");
  refused([&](Checkpoint& c) { c.exits["model.norm.weight"] = zeros({1}); }, "model.norm.weight");
  refused(
      [&](Checkpoint& c) {
        c.exits[exit_name(1, "translator.lora_A.weight")] = zeros({2, width});
      },
      "lora_B.weight");
  for (const std::vector<float>& tokens : {std::vector<float>{3, 3}, {0.5F}, {-1}, {1e9F}})
    refused(
        [&](Checkpoint& c) {
          c.exits[std::string(shortlist_name)] = make_tensor(DType::f32, {std::ssize(tokens)}, tokens);
        },
        "ascending tokens");
}

TEST(Parameters, UniqueAndUnrolledAreCountedApart) {
  const Checkpoint plain = load("llama");
  const ParameterCount count = count_parameters(plain);
  std::int64_t elements = 0;
  for (const auto& [name, tensor] : plain.tensors) elements += tensor.elements();
  EXPECT_EQ(count.embedding + count.non_embedding(), elements);
  EXPECT_EQ(count.unrolled, count.layers);
  EXPECT_EQ(count.adapters, 0);

  const Checkpoint recursive = relaxed();
  const ParameterCount tied = count_parameters(recursive);
  const std::int64_t hidden = plain.config.hidden_size;
  const std::int64_t layer = (count.layers - hidden) / 3;
  EXPECT_EQ(tied.layers, 2 * layer + hidden);
  EXPECT_EQ(tied.adapters, 4 * (2 * (hidden + plain.config.heads * plain.config.head_dim) + hidden));
  EXPECT_EQ(tied.unrolled, 4 * layer + hidden + tied.adapters);
}

// Table of arXiv 2410.20672 (2 and F): parameters outside the embedding in units of 1e9.
TEST(Parameters, TheCountsOfThePaperAreReproduced) {
  const Json gemma_2b{{"model_type", "gemma"},   {"hidden_size", 2048},      {"intermediate_size", 16'384},
                      {"num_hidden_layers", 18}, {"num_attention_heads", 8}, {"num_key_value_heads", 1},
                      {"head_dim", 256},         {"vocab_size", 256'000}};
  const Json tiny_llama{{"model_type", "llama"},   {"hidden_size", 2048},       {"intermediate_size", 5632},
                        {"num_hidden_layers", 22}, {"num_attention_heads", 32}, {"num_key_value_heads", 4},
                        {"vocab_size", 32'000}};
  const Json pythia_1b{{"model_type", "gpt_neox"}, {"hidden_size", 2048},      {"intermediate_size", 8192},
                       {"num_hidden_layers", 16},  {"num_attention_heads", 8}, {"vocab_size", 50'304}};
  struct Row {
    Json config;
    std::int64_t loops;
    std::vector<double> counts;  // the original, then ranks 0, 64, 128, 256, 512
  };
  const Row table[] = {{gemma_2b, 2, {1.982, 0.991, 1.069, 1.148, 1.305, 1.597}},
                       {gemma_2b, 3, {1.982, 0.661, 0.739, 0.818, 0.974, 1.267}},
                       {tiny_llama, 2, {0.969, 0.484, 0.535, 0.585, 0.686, 0.862}},
                       {pythia_1b, 2, {0.805, 0.403, 0.440, 0.478, 0.554, 0.705}}};
  const test::Scratch scratch;
  for (const Row& row : table) {
    SCOPED_TRACE(row.config["model_type"]);
    write_file(scratch / "config.json", row.config.dump());
    const Checkpoint checkpoint = load_config(scratch / "config.json");
    const std::int64_t depth = checkpoint.plan.depth();
    EXPECT_NEAR(relaxed_parameters(checkpoint.config, depth, depth, 0) * 1e-9, row.counts[0], 6e-4);
    const std::int64_t ranks[] = {0, 64, 128, 256, 512};
    for (std::size_t i = 0; i < std::size(ranks); i++)
      EXPECT_NEAR(relaxed_parameters(checkpoint.config, depth / row.loops, depth, ranks[i]) * 1e-9,
                  row.counts[i + 1], 6e-4);
  }
}

TEST(Checkpoint, DamagedDirectoriesGiveErrorsThatNameTheFile) {
  const test::Scratch scratch;
  const fs::path path = scratch / "m";
  fs::copy(load_oracle("gemma3").model, path);
  for (const char* file : {"config.json", "model.safetensors"}) {
    const std::string original = read_file(path / file);
    const int loaded = test::expect_survives_damage(path / file, original, 1000, [&] {
      try {
        load_checkpoint(path);
      } catch (const Error& e) {
        // A damaged size shows as a tensor of another shape: then the message names the tensors' file.
        if (std::string(e.what()).find("by the configuration") == std::string::npos) throw;
        throw Error(e.what() + std::string(" ") + file);
      }
    });
    EXPECT_GT(loaded, 0);
    write_file(path / file, original);
  }
}

TEST(Checkpoint, DamagedGgufFilesGiveErrorsThatNameThem) {
  const test::Scratch scratch;
  const fs::path path = scratch / "model.gguf";
  for (const char* name : {"llama-rope-llama3-gguf", "gemma3-gguf"})
    test::expect_survives_damage(path, read_file(load_oracle(name).model), 1000,
                                 [&] { load_checkpoint(path); });
}

}  // namespace
}  // namespace fathom
