// The operations between products, and products with packed weights, against autograd on torch's own.
#include "train/ops/ops.h"

#include <gtest/gtest.h>

#include <cmath>
#include <functional>
#include <limits>
#include <map>
#include <string>
#include <utility>
#include <vector>

#include "base/threads.h"
#include "train/devices.h"
#include "train/model/model.h"
#include "train/small_run.h"
#include "train/step/adamw.h"
#include "train/step/buckets.h"

namespace fathom {
namespace {

class TrainOps : public testing::TestWithParam<Device> {
 protected:
  void SetUp() override {
    if (!is_there(GetParam())) GTEST_SKIP() << "no GPU";
  }
  const Operations& ops() const { return operations(GetParam()); }
};

double relative(const at::Tensor& found, const at::Tensor& expected) {
  return ((found.to(at::kCPU, at::kFloat) - expected).abs().max() / expected.abs().max()).item<double>();
}

at::Tensor halves(at::IntArrayRef shape) { return at::randn(shape).to(at::kBFloat16); }

using Operation = std::function<at::Tensor(const at::Tensor&)>;

// The operation in bfloat16 against torch's in float32 on the same values: result and gradient.
void expect_same(const Operations& ops, const Operation& own, const Operation& plain, const at::Tensor& input,
                 double tolerance) {
  const at::Tensor x =
      input.to(ops.device(), input.scalar_type(), false, /*copy=*/true).set_requires_grad(true);
  const at::Tensor twin = input.to(at::kFloat).set_requires_grad(true);
  const at::Tensor y = own(x), expected = plain(twin);
  EXPECT_LT(relative(y, expected), tolerance);
  const at::Tensor slope = at::randn(expected.sizes()).to(at::kBFloat16);
  y.backward(slope.to(y.options()));
  expected.backward(slope.to(at::kFloat));
  EXPECT_LT(relative(x.grad(), twin.grad()), tolerance);
}

at::Tensor plain_attention(const at::Tensor& qkv, const AttentionForm& form) {
  const auto parts = qkv.view({-1, form.positions, form.heads + 2 * form.kv_heads, form.head_dim})
                         .split_with_sizes({form.heads, form.kv_heads, form.kv_heads}, 2);
  const std::int64_t group = form.heads / form.kv_heads;
  const at::Tensor q = parts[0].transpose(1, 2), k = parts[1].transpose(1, 2).repeat_interleave(group, 1),
                   v = parts[2].transpose(1, 2).repeat_interleave(group, 1);
  const at::Tensor ones = at::ones({form.positions, form.positions}, at::kBool);
  at::Tensor seen = ones.tril();
  if (form.window > 0) seen = seen.logical_and(ones.triu(1 - form.window));
  const at::Tensor scores = (q.matmul(k.transpose(2, 3)) * form.scale)
                                .masked_fill(seen.logical_not(), -std::numeric_limits<float>::infinity());
  return scores.softmax(-1).matmul(v).transpose(1, 2).reshape({qkv.size(0), -1});
}

TEST_P(TrainOps, AttentionIsTorchs) {
  at::manual_seed(1);
  // Whole blocks, short ones, one alone, more than one chunk of them; dimensions that are whole tiles and
  // not; windows within a block, across blocks and beyond.
  for (const auto& [positions, head_dim] :
       {std::pair{256, 64}, {300, 24}, {300, 64}, {70, 96}, {650, 32}, {1, 64}}) {
    for (const std::int64_t window : {0, 1, 20, 150, 600, 1000}) {
      const AttentionForm form{.heads = 4,
                               .kv_heads = 2,
                               .head_dim = head_dim,
                               .positions = positions,
                               .scale = 0.2,
                               .window = window};
      SCOPED_TRACE(positions);
      SCOPED_TRACE(window);
      expect_same(
          ops(), [&](const at::Tensor& x) { return ops().attend(x, form); },
          [&](const at::Tensor& x) { return plain_attention(x, form); },
          halves({3 * positions, form.qkv_width()}), 0.015);
    }
  }
}

TEST_P(TrainOps, GatesAreTorchs) {
  at::manual_seed(2);
  const auto plain = [](Activation activation, const at::Tensor& x) {
    switch (activation) {
      case Activation::silu:
        return at::silu(x);
      case Activation::gelu:
        return at::gelu(x);
      case Activation::gelu_tanh:
        return at::gelu(x, "tanh");
      case Activation::relu:
        break;
    }
    return at::relu(x);
  };
  for (const Activation activation :
       {Activation::silu, Activation::gelu, Activation::gelu_tanh, Activation::relu}) {
    for (const std::int64_t width : {37, 64}) {
      at::Tensor input = halves({9, 2 * width}) * 3;
      input[0][0] = -200;  // e^200 is no float32
      const Operation twin = [&](const at::Tensor& x) {
        return plain(activation, x.narrow(1, 0, width)) * x.narrow(1, width, width);
      };
      const Operation own = [&](const at::Tensor& x) { return ops().gate(x, activation); };
      expect_same(ops(), own, twin, input, 0.01);
      const at::Tensor x = input.to(ops().device(), at::kFloat).set_requires_grad(true);
      const at::Tensor y = input.to(at::kFloat).set_requires_grad(true);
      own(x).sum().backward();
      twin(y).sum().backward();
      EXPECT_LT(relative(x.grad(), y.grad()), 1e-5) << "in float32";
    }
  }
}

TEST_P(TrainOps, LinearGroupsAreTorchs) {
  at::manual_seed(3);
  for (const auto& [rows, in] : std::vector<std::pair<std::int64_t, std::int64_t>>{{96, 64}, {50, 40}}) {
    const at::TensorOptions floats = at::device(ops().device()).dtype(at::kFloat);
    const auto parameter = [&](at::IntArrayRef shape) -> Parameter {
      return {halves(shape).to(floats), at::zeros(shape, floats)};
    };
    std::vector<Parameter> weights, biases;
    for (const std::int64_t out : {48, 16, 19}) {
      // Values that bfloat16 holds: the products are then of the same numbers.
      weights.push_back(parameter({out, in}));
      biases.push_back(parameter({out}));
    }
    const auto group = ops().linear_group({&weights[0], &weights[1], &weights[2]},
                                          {&biases[0], nullptr, &biases[2]}, in == 40);
    const at::Tensor w = at::cat({weights[0].values, weights[1].values, weights[2].values}).cpu();
    const at::Tensor b = at::cat({biases[0].values, at::zeros({16}, floats), biases[2].values}).cpu();
    const at::Tensor plain_w = w.clone().set_requires_grad(true), plain_b = b.clone().set_requires_grad(true);
    expect_same(
        ops(), [&](const at::Tensor& x) { return linear(x, *group); },
        [&](const at::Tensor& x) { return at::linear(x, plain_w, plain_b); }, halves({rows, in}), 0.01);
    EXPECT_LT(
        relative(at::cat({weights[0].gradient, weights[1].gradient, weights[2].gradient}), plain_w.grad()),
        1e-5);
    EXPECT_LT(relative(biases[2].gradient, plain_b.grad().narrow(0, 64, 19)), 1e-5);
    // A second use adds to the total; changed weights are packed anew.
    const at::Tensor before = weights[0].gradient.cpu().clone();
    for (Parameter& weight : weights) {
      weight.values.mul_(2);
      ++weight.updates;
    }
    const at::Tensor h = at::randn({rows, 83}), plain_x = halves({rows, in});
    const at::Tensor x = plain_x.to(ops().device()).set_requires_grad(true);
    const at::Tensor y = add_linear(h.to(ops().device()), x, *group);
    EXPECT_LT(relative(y, h + at::linear(plain_x.to(at::kFloat), w * 2, b)), 1e-5);
    const at::Tensor slope = halves({rows, 83});
    y.backward(slope.to(floats));
    const at::Tensor more = slope.narrow(1, 0, 48).t().to(at::kFloat).mm(plain_x.to(at::kFloat));
    EXPECT_LT(relative(weights[0].gradient, before + more), 1e-5);
    EXPECT_LT(relative(x.grad(), slope.to(at::kFloat).mm(w * 2)), 0.01);
  }
}

// Packed weights follow the optimiser where rows come in whole tiles, and are packed anew where they do not.
TEST_P(TrainOps, ProductsAreOfUpdatedWeights) {
  at::manual_seed(8);
  for (const std::int64_t out : {64, 40}) {
    for (const std::int64_t in : {96, 1600, 33}) {
      const at::TensorOptions floats = at::device(ops().device()).dtype(at::kFloat);
      const auto parameter = [&](std::int64_t rows) -> Parameter {
        return {at::randn({rows, in}, floats), at::randn({rows, in}, floats)};
      };
      std::map<std::string, Parameter> weights;
      weights["a"] = parameter(out);
      weights["b"] = parameter(32);
      for (auto& [name, weight] : weights) weight.values.set_requires_grad(true);
      const auto group =
          ops().linear_group({&weights["a"], &weights["b"]}, {nullptr, nullptr}, /*spares_memory=*/false);
      const at::Tensor x = halves({5, in}), slope = halves({5, out + 32});
      const auto expect_products = [&](const char* when) {
        const at::Tensor w =
            at::cat({weights["a"].values, weights["b"].values}).detach().cpu().to(at::kBFloat16);
        const at::Tensor own_x = x.clone().to(ops().device()).set_requires_grad(true),
                         y = linear(own_x, *group);
        y.backward(slope.to(y.options()));
        EXPECT_LT(relative(y, x.to(at::kFloat).mm(w.to(at::kFloat).t())), 0.01) << when << out << " x " << in;
        EXPECT_LT(relative(own_x.grad(), slope.to(at::kFloat).mm(w.to(at::kFloat))), 0.01)
            << when << out << " x " << in;
      };
      expect_products("before ");
      const Ranks alone;
      const DepthPlan plan;
      const Buckets buckets(weights, plan, alone, false);
      AdamW optimiser(weights, {}, buckets, ops());
      for (const double learning_rate : {1.0, 0.1}) {
        optimiser.step(learning_rate, 1);
        expect_products("after ");
      }
    }
  }
}

TEST_P(TrainOps, NormsAreTorchs) {
  at::manual_seed(4);
  const std::int64_t width = 40;
  for (const bool plus_one : {false, true}) {
    const at::Tensor gain = at::randn({width});
    const Parameter parameter{gain.to(ops().device()), at::zeros({width}).to(ops().device())};
    const at::Tensor plain_gain = gain.clone().set_requires_grad(true);
    // Two heads a row, each normed by itself.
    expect_same(
        ops(), [&](const at::Tensor& x) { return ops().rms_norm(x, parameter, plus_one, 1e-3, at::kFloat); },
        [&](const at::Tensor& x) {
          const at::Tensor heads = x.view({-1, width});
          const at::Tensor size = (heads.square().mean(1, true) + 1e-3).sqrt();
          return (heads / size * (plus_one ? plain_gain + 1 : plain_gain)).view(x.sizes());
        },
        halves({9, 2 * width}), 0.01);
    EXPECT_LT(relative(parameter.gradient, plain_gain.grad()), 1e-5);
  }
}

TEST_P(TrainOps, AStreamAndItsNormHaveOneGradient) {
  at::manual_seed(6);
  const std::int64_t width = 40;
  const at::Tensor values = at::randn({7, width}), gain = at::randn({width}) + 1;
  const auto plain = [&](const at::Tensor& x) { return x / (x.square().mean(1, true) + 1e-3).sqrt() * gain; };
  for (const bool uses_norm : {true, false}) {
    for (const bool uses_stream : {true, false}) {
      if (!uses_norm && !uses_stream) continue;
      Parameter parameter;
      parameter.values = gain.to(ops().device());
      const at::Tensor x = values.to(ops().device(), at::kFloat, false, /*copy=*/true)
                               .set_requires_grad(true),
                       twin = values.clone().set_requires_grad(true);
      const auto [y, stream] = ops().norm_stream(x, parameter, false, 1e-3, at::kFloat);
      EXPECT_EQ((stream.cpu() - values).abs().max().item<float>(), 0);
      at::Tensor own = at::zeros({7, width}, x.options()), expected = at::zeros({7, width});
      if (uses_norm) own = own + y.square(), expected = expected + plain(twin).square();
      if (uses_stream) own = own + stream.sin(), expected = expected + twin.sin();
      own.sum().backward();
      expected.sum().backward();
      EXPECT_LT(relative(x.grad(), twin.grad()), 1e-5);
    }
  }
}

TEST_P(TrainOps, RotationTurnsPairsByTheirPosition) {
  at::manual_seed(5);
  const std::int64_t positions = 7, half = 6, heads = 3, turned = 2;
  const at::Tensor angles = at::randn({positions, half});
  const auto there = [&](const at::Tensor& table) { return table.to(ops().device()); };
  expect_same(
      ops(),
      [&](const at::Tensor& x) { return ops().rotary(x, there(angles.cos()), there(angles.sin()), turned); },
      [&](const at::Tensor& x) {
        const at::Tensor all = x.view({-1, positions, heads, 2 * half}), first = all.narrow(2, 0, turned);
        const auto pair = first.chunk(2, -1);
        const at::Tensor wide = angles.repeat({1, 2}).unsqueeze(1);
        const at::Tensor own = first * wide.cos() + at::cat({-pair[1], pair[0]}, -1) * wide.sin();
        return at::cat({own, all.narrow(2, turned, heads - turned)}, 2).view(x.sizes());
      },
      halves({2 * positions, heads * 2 * half}), 0.01);
}

TEST_P(TrainOps, AnUpdateIsAdamWs) {
  at::manual_seed(6);
  const OptimiserOptions options{.beta1 = 0.8, .beta2 = 0.9, .epsilon = 1e-3};
  const AdamWUpdate update{.learning_rate = 0.1, .gradient_scale = 0.5, .number = 3};
  std::vector<AdamWPart> parts;
  std::vector<at::Tensor> gradients, expected;
  for (const double decay : {0.0, 0.2, 0.2}) {
    const auto some = [] { return at::randn({5'000}); };
    const at::Tensor value = some(), gradient = some(), average = some(), square = some().square();
    const at::Tensor g = gradient * 0.5, m = average * 0.8 + g * 0.2, v = square * 0.9 + g * g * 0.1;
    const double first = 1 - std::pow(0.8, 3), second = 1 - std::pow(0.9, 3);
    expected.push_back(value * (1 - 0.1 * decay) - 0.1 * (m / first) / ((v / second).sqrt() + 1e-3));
    expected.push_back(m);
    expected.push_back(v);
    gradients.push_back(gradient);
    const auto there = [&](const at::Tensor& tensor) { return tensor.clone().to(ops().device()); };
    parts.push_back({there(value), there(gradient), there(average), there(square), decay});
  }
  parts.push_back(parts.front());  // of a share that is empty
  for (at::Tensor* tensor : {&parts[3].values, &parts[3].gradient, &parts[3].average, &parts[3].square})
    *tensor = tensor->narrow(0, 0, 0);
  const double norm = at::cat(gradients).norm().item<double>();
  EXPECT_NEAR(ops().norm({parts[0].gradient, parts[1].gradient, parts[2].gradient}) / norm, 1, 1e-5);
  ops().adamw(options, update, parts);
  for (std::size_t i = 0; i < 3; ++i) {
    EXPECT_LT(relative(parts[i].values, expected[3 * i]), 1e-5) << i;
    EXPECT_LT(relative(parts[i].average, expected[3 * i + 1]), 1e-5) << i;
    EXPECT_LT(relative(parts[i].square, expected[3 * i + 2]), 1e-5) << i;
  }
}

// By one thread, so that nothing is updated but what is waited for.
TEST_P(TrainOps, AnUpdateIsThereWhereAVisitReads) {
  set_threads(1);
  const at::Tensor ids = at::tensor({3, 1, 4, 1, 5, 9, 2, 6}, at::kLong).view({2, 4}).to(ops().device());
  const Ranks alone;
  const Checkpoint checkpoint = tiny("llama");
  std::vector<at::Tensor> results;
  for (const bool beside : {false, true}) {
    TrainModel model(checkpoint, {.bf16 = true, .device = GetParam()});
    Buckets buckets(model.parameters(), checkpoint.plan, alone, false);
    AdamW optimiser(model.parameters(), {}, buckets, ops());
    std::map<std::string, at::Tensor> before;
    for (auto& [name, parameter] : model.parameters()) {
      parameter.gradient.fill_(0.5);
      before[name] = parameter.values.detach().clone();
    }
    const auto is_updated = [&](const std::string& name) {
      return !before.at(name).equal(model.parameters().at(name).values);
    };
    model.forward(ids);  // packs the weights
    if (!beside) {
      optimiser.step(0.01, 1);
    } else {
      optimiser.begin_step(0.01, 1);
      if (ops().device().is_cpu()) {
        optimiser.finish(0);
        for (const char* name :
             {"model.embed_tokens.weight", "model.norm.weight", "model.layers.0.mlp.up_proj.weight",
              "model.layers.0.input_layernorm.weight"})
          EXPECT_TRUE(is_updated(name)) << name;
        for (const char* name :
             {"model.layers.1.mlp.up_proj.weight", "model.layers.1.input_layernorm.weight"})
          EXPECT_FALSE(is_updated(name)) << name;
      }
      model.before_visit([&](std::int64_t visit) { optimiser.finish(visit); });
    }
    results.push_back(model.forward(ids));
    model.wait_for_update();
    for (const auto& [name, values] : before) EXPECT_TRUE(is_updated(name)) << name;
  }
  EXPECT_TRUE(results[0].equal(results[1]));
  set_threads(0);
}

// Of every parameter: what an update has left in a gradient is not added to, whoever comes first.
TEST_P(TrainOps, ASpentGradientCountsAsZeros) {
  const at::Tensor ids = at::tensor({3, 1, 4, 1, 5, 9, 2, 6}, at::kLong).view({2, 4}).to(ops().device());
  const std::vector<std::int32_t> labels = {1, 4, 1, 5, 9, 2, 6, 5};
  for (const char* name : {"llama", "qwen2", "gemma3"}) {
    for (const bool bf16 : {false, true}) {
      TrainModel model(tiny(name), {.bf16 = bf16, .device = GetParam()});
      const auto run = [&] {
        const at::Tensor hidden = model.forward(ids);
        at::Tensor gradient;
        head_loss(hidden.detach(), model.head(), labels, {}, {}, gradient);
        hidden.backward(gradient);
      };
      const auto expect_squares = [&] {
        for (const auto& [parameter_name, parameter] : model.parameters()) {
          if (!parameter.squares) continue;
          const double squares = parameter.gradient.square().sum().item<double>();
          EXPECT_NEAR(*parameter.squares / squares, 1, 1e-5) << name << " " << parameter_name;
        }
      };
      run();
      expect_squares();
      std::map<std::string, at::Tensor> once;
      for (auto& [parameter_name, parameter] : model.parameters()) {
        once[parameter_name] = parameter.gradient.clone();
        parameter.gradient.fill_(1e3);
        parameter.spent = true;
      }
      run();
      expect_squares();
      run();
      expect_squares();
      for (const auto& [parameter_name, parameter] : model.parameters()) {
        EXPECT_FALSE(parameter.spent) << parameter_name;
        EXPECT_LT(relative(parameter.gradient, 2 * once[parameter_name].cpu()), 1e-5)
            << name << " " << parameter_name;
      }
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Devices, TrainOps, each_device,
                         [](const auto& instance) { return test_name(instance.param); });

}  // namespace
}  // namespace fathom
