// The trainer's forward and backward pass against transformers', and its gradients through depth plans.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>

#include "base/random.h"
#include "model/checkpoint.h"
#include "oracle.h"
#include "train/devices.h"
#include "train/train.h"

namespace fathom {
namespace {

class TrainParity : public testing::TestWithParam<std::tuple<Device, std::string>> {};

TEST_P(TrainParity, LogitsLossAndGradientsAreTransformers) {
  const auto& [device, model_name] = GetParam();
  if (!is_there(device)) GTEST_SKIP() << "no GPU";
  const Oracle oracle = load_oracle(model_name);
  const Checkpoint model = load_checkpoint(oracle.model);
  EXPECT_LT(largest_difference(train_logits(model, oracle.ids, device), oracle.logits), 1e-4);
  TensorMap gradients;
  EXPECT_NEAR(train_gradients(model, oracle.ids, gradients, device), oracle.loss, 1e-4);
  for (const auto& [name, expected] : oracle.gradients) {
    ASSERT_TRUE(gradients.contains(name)) << name;
    EXPECT_LT(relative_difference(decode(gradients.at(name)), expected), 1e-4) << name;
  }
}

INSTANTIATE_TEST_SUITE_P(Models, TrainParity,
                         testing::Combine(each_device, testing::ValuesIn(oracle_names())),
                         [](const auto& instance) {
                           std::string name =
                               test_name(std::get<0>(instance.param)) + "_" + std::get<1>(instance.param);
                           std::ranges::replace(name, '-', '_');
                           return name;
                         });

/// The tiny Llama with its first two layers visited twice, in turn.
Checkpoint looped() {
  Checkpoint model = load_checkpoint(load_oracle("llama").model);
  model.plan.visits = {{.layer = 0}, {.layer = 1}, {.layer = 0}, {.layer = 1}};
  model.plan.layers = 2;
  std::erase_if(model.tensors, [](const auto& entry) { return entry.first.starts_with("model.layers.2."); });
  return model;
}

TEST(TrainPlan, TiedGradientsAreTheSumOverLoopsOfTheUnrolledModel) {
  const Checkpoint tied = looped();
  Checkpoint unrolled = tied;
  unrolled.plan = plain_plan({0, 0, 0, 0});
  for (const auto& [name, tensor] : tied.tensors) {
    const std::string prefix = "model.layers.";
    if (!name.starts_with(prefix)) continue;
    const int layer = name[prefix.size()] - '0';
    unrolled.tensors[layer_name(layer + 2, name.substr(prefix.size() + 2))] = tensor;
  }
  const std::vector<Token> ids = {3, 1, 4, 15, 9, 2, 6};
  EXPECT_EQ(train_logits(tied, ids), train_logits(unrolled, ids));
  TensorMap of_tied, of_unrolled;
  EXPECT_EQ(train_gradients(tied, ids, of_tied), train_gradients(unrolled, ids, of_unrolled));
  for (const auto* part : {"self_attn.k_proj.weight", "mlp.down_proj.weight", "input_layernorm.weight"}) {
    for (const int layer : {0, 1}) {
      std::vector<float> sum = decode(of_unrolled.at(layer_name(layer, part)));
      const std::vector<float> second = decode(of_unrolled.at(layer_name(layer + 2, part)));
      for (std::size_t i = 0; i < sum.size(); ++i) sum[i] += second[i];
      EXPECT_LT(relative_difference(decode(of_tied.at(layer_name(layer, part))), sum), 1e-5) << layer << part;
    }
  }
}

TEST(TrainPlan, AdaptersAndNormsOfVisitsAreAsIfWrittenIntoTheMatrices) {
  Checkpoint adapted = load_checkpoint(load_oracle("llama").model);
  Checkpoint merged = adapted;
  const std::string down = "mlp.down_proj";
  const std::int64_t out = adapted.config.hidden_size, in = adapted.config.intermediate_size, rank = 3;
  Random random(7);
  const auto noise = [&](std::int64_t count) {
    std::vector<float> values(count);
    for (float& value : values) value = static_cast<float>(random.normal() * 0.1);
    return values;
  };
  const std::vector<float> a = noise(rank * in), b = noise(out * rank), gain = noise(out), shift = noise(out);
  adapted.plan.visits[1].adapter = 0;
  adapted.tensors[adapter_name(0, down + ".lora_A.weight")] = make_tensor(DType::f32, {rank, in}, a);
  adapted.tensors[adapter_name(0, down + ".lora_B.weight")] = make_tensor(DType::f32, {out, rank}, b);
  adapted.tensors[adapter_name(0, down + ".lora_B.bias")] = make_tensor(DType::f32, {out}, shift);
  adapted.tensors[adapter_name(0, "input_layernorm.weight")] = make_tensor(DType::f32, {out}, gain);

  std::vector<float> weight = decode(merged.layer_tensor(1, down + ".weight"));
  for (std::int64_t i = 0; i < out; ++i) {
    for (std::int64_t r = 0; r < rank; ++r) {
      for (std::int64_t j = 0; j < in; ++j) weight[i * in + j] += b[i * rank + r] * a[r * in + j];
    }
  }
  merged.config.mlp_bias = true;
  for (std::int64_t layer = 0; layer < merged.plan.layers; ++layer) {
    for (const Linear linear : {Linear::gate, Linear::up, Linear::down}) {
      const std::int64_t width = out_features(merged.config, linear);
      const bool shifted = layer == 1 && linear == Linear::down;
      merged.tensors[layer_name(layer, std::string(linear_name(linear)) + ".bias")] =
          make_tensor(DType::f32, {width}, shifted ? shift : std::vector<float>(width));
    }
  }
  merged.tensors[layer_name(1, down + ".weight")] = make_tensor(DType::f32, {out, in}, weight);
  merged.tensors[layer_name(1, "input_layernorm.weight")] = make_tensor(DType::f32, {out}, gain);
  const std::vector<Token> ids = {3, 1, 4, 15, 9, 2, 6};
  EXPECT_LT(largest_difference(train_logits(adapted, ids), train_logits(merged, ids)), 1e-5);
}

}  // namespace
}  // namespace fathom
