// The operations between products, and products with packed weights, against autograd on torch's own.
#include "train/ops.h"

#include <gtest/gtest.h>

#include <functional>
#include <limits>
#include <vector>

namespace fathom {
namespace {

double relative(const at::Tensor& found, const at::Tensor& expected) {
  return ((found.to(at::kFloat) - expected).abs().max() / expected.abs().max()).item<double>();
}

at::Tensor halves(at::IntArrayRef shape) { return at::randn(shape).to(at::kBFloat16); }

using Operation = std::function<at::Tensor(const at::Tensor&)>;

// The operation in bfloat16 against torch's in float32 on the same values: result and gradient.
void expect_same(const Operation& own, const Operation& plain, const at::Tensor& input, double tolerance) {
  const at::Tensor x = input.clone().set_requires_grad(true);
  const at::Tensor twin = input.to(at::kFloat).set_requires_grad(true);
  const at::Tensor y = own(x), expected = plain(twin);
  EXPECT_LT(relative(y, expected), tolerance);
  const at::Tensor slope = at::randn(expected.sizes()).to(at::kBFloat16);
  y.backward(slope.to(y.scalar_type()));
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

TEST(TrainOps, AttentionIsTorchs) {
  at::manual_seed(1);
  // Whole blocks, short ones, one alone; dimensions that are whole tiles and not; windows within a block,
  // across blocks and beyond.
  for (const std::int64_t positions : {256, 300, 70, 1}) {
    for (const std::int64_t window : {0, 20, 150, 1000}) {
      const AttentionForm form{.heads = 4,
                               .kv_heads = 2,
                               .head_dim = positions == 70 ? 24 : 64,
                               .positions = positions,
                               .scale = 0.2,
                               .window = window};
      SCOPED_TRACE(positions);
      SCOPED_TRACE(window);
      expect_same([&](const at::Tensor& x) { return attend(x, form); },
                  [&](const at::Tensor& x) { return plain_attention(x, form); },
                  halves({3 * positions, form.qkv_width()}), 0.015);
    }
  }
}

TEST(TrainOps, GatesAreTorchs) {
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
      const Operation own = [&](const at::Tensor& x) { return gate(x, activation); };
      expect_same(own, twin, input, 0.01);
      const at::Tensor x = input.to(at::kFloat).set_requires_grad(true);
      const at::Tensor y = input.to(at::kFloat).set_requires_grad(true);
      own(x).sum().backward();
      twin(y).sum().backward();
      EXPECT_LT(relative(x.grad(), y.grad()), 1e-5) << "in float32";
    }
  }
}

TEST(TrainOps, LinearGroupsAreTorchs) {
  at::manual_seed(3);
  for (const auto& [rows, in] : std::vector<std::pair<std::int64_t, std::int64_t>>{{96, 64}, {50, 40}}) {
    std::vector<Parameter> weights, biases;
    for (const std::int64_t out : {48, 16, 19}) {
      // Values that bfloat16 holds: the products are then of the same numbers.
      weights.push_back({halves({out, in}).to(at::kFloat), at::zeros({out, in})});
      biases.push_back({halves({out}).to(at::kFloat), at::zeros({out})});
    }
    const LinearGroup group({&weights[0], &weights[1], &weights[2]}, {&biases[0], nullptr, &biases[2]});
    const at::Tensor w = at::cat({weights[0].values, weights[1].values, weights[2].values});
    const at::Tensor b = at::cat({biases[0].values, at::zeros({16}), biases[2].values});
    const at::Tensor plain_w = w.clone().set_requires_grad(true), plain_b = b.clone().set_requires_grad(true);
    expect_same([&](const at::Tensor& x) { return linear(x, group); },
                [&](const at::Tensor& x) { return at::linear(x, plain_w, plain_b); }, halves({rows, in}),
                0.01);
    EXPECT_LT(
        relative(at::cat({weights[0].gradient, weights[1].gradient, weights[2].gradient}), plain_w.grad()),
        1e-5);
    EXPECT_LT(relative(biases[2].gradient, plain_b.grad().narrow(0, 64, 19)), 1e-5);
    // A second use adds to the total; changed weights are packed anew.
    const at::Tensor before = weights[0].gradient.clone();
    for (Parameter& weight : weights) {
      weight.values.mul_(2);
      ++weight.updates;
    }
    const at::Tensor h = at::randn({rows, 83}), x = halves({rows, in}).set_requires_grad(true);
    const at::Tensor y = add_linear(h, x, group);
    EXPECT_LT(relative(y, h + at::linear(x.detach().to(at::kFloat), w * 2, b)), 1e-5);
    const at::Tensor slope = halves({rows, 83});
    y.backward(slope.to(at::kFloat));
    const at::Tensor more = slope.narrow(1, 0, 48).t().to(at::kFloat).mm(x.detach().to(at::kFloat));
    EXPECT_LT(relative(weights[0].gradient, before + more), 1e-5);
    EXPECT_LT(relative(x.grad(), slope.to(at::kFloat).mm(w * 2)), 0.01);
  }
}

}  // namespace
}  // namespace fathom
