// Models that are relaxed in every matrix, bias and norm: the trainer against the engine, and its gradients
// against those of the plain model that the pairs are written into (transformers checks that one:
// parity_test.cpp).
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>

#include "base/random.h"
#include "depth/linear_algebra.h"
#include "depth/unroll.h"
#include "logits.h"
#include "model/checkpoint.h"
#include "oracle.h"
#include "train/devices.h"
#include "train/train.h"

namespace fathom {
namespace {

constexpr std::int64_t rank = 3, layers = 2, visits = 4;

/// Two layers of an oracle's model looped twice, each visit with pairs, shifts and norms of its own.
Checkpoint relaxed(const std::string& name) {
  Checkpoint model = load_checkpoint(load_oracle(name).model);
  const ModelConfig& config = model.config;
  Random random(7);
  const auto noise = [&](Shape shape, float mean, float deviation) {
    std::vector<float> values(static_cast<std::size_t>(element_count(shape)));
    for (float& value : values) value = mean + deviation * static_cast<float>(random.normal());
    return make_tensor(DType::f32, std::move(shape), values);
  };
  const std::vector<Visit> before = model.plan.visits;
  model.plan = {.layers = layers, .visits = {}};
  std::erase_if(model.tensors, [&](const auto& entry) {
    for (std::int64_t layer = layers; layer < std::ssize(before); ++layer)
      if (entry.first.starts_with(layer_name(layer, ""))) return true;
    return false;
  });
  for (std::int64_t visit = 0; visit < visits; ++visit) {
    model.plan.visits.push_back({.layer = visit % layers,
                                 .adapter = visit,
                                 .type = before[static_cast<std::size_t>(visit % std::ssize(before))].type});
    for (const Linear linear : all_linears) {
      const std::string pair = adapter_name(visit, linear_name(linear));
      const std::int64_t in = in_features(config, linear), out = out_features(config, linear);
      model.tensors[pair + ".lora_A.weight"] = noise({rank, in}, 0, 0.1F);
      model.tensors[pair + ".lora_B.weight"] = noise({out, rank}, 0, 0.1F);
      if (has_bias(config, linear)) model.tensors[pair + ".lora_B.bias"] = noise({out}, 0, 0.1F);
    }
    for (const NormInfo& norm : layer_norms(config))
      model.tensors[adapter_name(visit, norm.name + ".weight")] =
          noise({norm.width}, config.norm_plus_one ? 0.0F : 1.0F, 0.1F);
  }
  validate(model);
  return model;
}

class Relaxed : public testing::TestWithParam<std::tuple<Device, std::string>> {};

TEST_P(Relaxed, TrainerAndEngineComputeTheSame) {
  const auto& [device, name] = GetParam();
  if (!is_there(device)) GTEST_SKIP() << "no GPU";
  const Checkpoint model = relaxed(name);
  const std::vector<Token> ids = load_oracle(name).ids;
  EXPECT_LT(relative_difference(train_logits(model, ids, device), logits_of(model, ids)), 1e-4F);
}

TEST_P(Relaxed, GradientsFollowFromThoseOfTheUnrolledModel) {
  const auto& [device, name] = GetParam();
  if (!is_there(device)) GTEST_SKIP() << "no GPU";
  const Checkpoint model = relaxed(name);
  const Checkpoint plain = unroll(model, DType::f32);
  const std::vector<Token> ids = load_oracle(name).ids;
  TensorMap found, of_plain;
  const double loss = train_gradients(plain, ids, of_plain, device);
  EXPECT_NEAR(train_gradients(model, ids, found, device), loss, 1e-4 * loss);
  const auto expect = [&](const std::string& tensor, const std::vector<float>& expected) {
    ASSERT_TRUE(found.contains(tensor)) << tensor;
    EXPECT_LT(relative_difference(decode(found.at(tensor)), expected), 1e-3F) << tensor;
  };
  for (const Linear linear : all_linears) {
    const std::string map = linear_name(linear);
    std::vector<Matrix> shared(layers,
                               Matrix(out_features(model.config, linear), in_features(model.config, linear)));
    for (std::int64_t visit = 0; visit < visits; ++visit) {
      const Matrix slope = to_matrix(of_plain.at(layer_name(visit, map + ".weight")));
      const Matrix a = to_matrix(*model.adapter_tensor(visit, map + ".lora_A.weight")),
                   b = to_matrix(*model.adapter_tensor(visit, map + ".lora_B.weight"));
      // Of W + B A: dA = Bᵀ dW, dB = dW Aᵀ.
      expect(adapter_name(visit, map + ".lora_A.weight"),
             multiply(b, Transpose::yes, slope, Transpose::no).values);
      expect(adapter_name(visit, map + ".lora_B.weight"),
             multiply(slope, Transpose::no, a, Transpose::yes).values);
      if (has_bias(model.config, linear))
        expect(adapter_name(visit, map + ".lora_B.bias"),
               decode(of_plain.at(layer_name(visit, map + ".bias"))));
      add_scaled(slope, 1, shared[static_cast<std::size_t>(visit % layers)]);
    }
    for (std::int64_t layer = 0; layer < layers; ++layer)
      expect(layer_name(layer, map + ".weight"), shared[static_cast<std::size_t>(layer)].values);
  }
  for (const NormInfo& norm : layer_norms(model.config))
    for (std::int64_t visit = 0; visit < visits; ++visit)
      expect(adapter_name(visit, norm.name + ".weight"),
             decode(of_plain.at(layer_name(visit, norm.name + ".weight"))));
  for (const char* tensor : {"model.norm.weight", "model.embed_tokens.weight"})
    expect(tensor, decode(of_plain.at(tensor)));
}

INSTANTIATE_TEST_SUITE_P(Models, Relaxed,
                         testing::Combine(each_device, testing::Values("llama", "llama-wide", "qwen2",
                                                                       "qwen3", "gemma", "gemma2", "gemma3")),
                         [](const auto& instance) {
                           std::string name =
                               test_name(std::get<0>(instance.param)) + "_" + std::get<1>(instance.param);
                           std::ranges::replace(name, '-', '_');
                           return name;
                         });

}  // namespace
}  // namespace fathom
