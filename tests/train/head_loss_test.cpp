// The fused head and losses against torch's own log-softmax and autograd.
#include "train/ops/head_loss.h"

#include <ATen/core/grad_mode.h>
#include <gtest/gtest.h>

#include <tuple>

#include "train/devices.h"

namespace fathom {
namespace {

struct Case {
  const char* name;
  LossWeights weights;
  double tolerance = 2e-5;
  at::ScalarType type = at::kFloat;
};

class HeadLoss : public testing::TestWithParam<std::tuple<Device, Case>> {};

double relative(const at::Tensor& found, const at::Tensor& expected) {
  return ((found.cpu() - expected).abs().max() / expected.abs().max()).item<double>();
}

TEST_P(HeadLoss, ValuesAndGradientsAreTorchs) {
  const auto& [device, given] = GetParam();
  if (!is_there(device)) GTEST_SKIP() << "no GPU";
  const Operations& ops = operations(device);
  const LossWeights& weights = given.weights;
  const at::ScalarType type = given.type;
  // 30,011 entries make chunks of 839 rows: two, the second one short; no multiple of any vector's length.
  const std::int64_t rows = 900, width = 24, vocab = 30'011;
  at::manual_seed(3);
  at::Tensor hidden = at::randn({rows, width}).to(type), matrix = at::randn({vocab, width}).to(type);
  const at::Tensor teacher = at::randn({rows, vocab}) * 3;
  std::vector<std::int32_t> labels(rows);
  for (std::int64_t i = 0; i < rows; ++i) labels[i] = static_cast<std::int32_t>(i * 7919 % vocab);
  labels[5] = -1;

  const Parameter weight{.values = matrix.to(ops.device()),
                         .gradient = at::zeros({vocab, width}).to(ops.device())};
  const auto head = ops.head(&weight, false);
  at::Tensor hidden_gradient;
  const LossSums sums = head_loss(
      hidden.to(ops.device()), *head, labels, weights,
      [&](std::int64_t first, std::int64_t count) {
        return teacher.narrow(0, first, count).to(ops.device());
      },
      hidden_gradient);

  at::Tensor x = hidden.to(at::kFloat).set_requires_grad(true),
             w = matrix.to(at::kFloat).set_requires_grad(true);
  at::Tensor logits = at::linear(x, w);
  if (weights.softcap != 0) logits = (logits / weights.softcap).tanh() * weights.softcap;
  const at::Tensor targets = at::tensor(at::ArrayRef<std::int32_t>(labels), at::kLong);
  const at::Tensor ce =
      at::nll_loss(logits.log_softmax(1), targets, {}, at::Reduction::Sum, /*ignore_index=*/-1);
  const double t = weights.temperature;
  const at::Tensor kl =
      at::kl_div((logits / t).log_softmax(1), (teacher / t).log_softmax(1), at::Reduction::Sum, true) *
      (t * t);
  ((ce * weights.cross_entropy + kl * weights.divergence) * weights.scale).backward();

  const double tolerance = given.tolerance;
  EXPECT_NEAR(sums.cross_entropy / ce.item<double>(), 1, tolerance);
  if (weights.divergence != 0) {
    EXPECT_NEAR(sums.divergence / kl.item<double>(), 1, tolerance);
  }
  EXPECT_LT(relative(hidden_gradient, x.grad()), tolerance);
  EXPECT_LT(relative(weight.gradient, w.grad()), tolerance);
}

INSTANTIATE_TEST_SUITE_P(
    Losses, HeadLoss,
    testing::Combine(
        each_device,
        testing::Values(
            Case{"CrossEntropy", {.scale = 0.01F}}, Case{"Divergence", {.cross_entropy = 0, .divergence = 1}},
            Case{"Both", {.cross_entropy = 0.3F, .divergence = 0.7F, .scale = 0.1F}},
            Case{"Temperature", {.cross_entropy = 0.5F, .divergence = 2, .temperature = 3}},
            Case{"SoftCap", {.cross_entropy = 1, .divergence = 1, .temperature = 2, .softcap = 5}},
            Case{"Bfloat16", {.cross_entropy = 1, .divergence = 1}, 2e-2, at::kBFloat16})),
    [](const auto& instance) {
      return test_name(std::get<0>(instance.param)) + std::get<1>(instance.param).name;
    });

class HeadLogits : public testing::TestWithParam<Device> {};

TEST_P(HeadLogits, AreTheHeadsInFloat32) {
  if (!is_there(GetParam())) GTEST_SKIP() << "no GPU";
  const Operations& ops = operations(GetParam());
  const std::int64_t rows = 37, width = 24, vocab = 1'013, first = 5, count = 21;
  for (const at::ScalarType type : {at::kFloat, at::kBFloat16}) {
    at::manual_seed(4);
    const at::Tensor hidden = at::randn({rows, width}).to(type), matrix = at::randn({vocab, width}).to(type);
    const Parameter weight{.values = matrix.to(ops.device()), .gradient = {}};
    const auto head = ops.head(&weight, false);
    const at::NoGradGuard no_grad;
    const at::Tensor found = head_logits(*head, hidden.to(ops.device()), 6)(first, count);
    const at::Tensor z = at::linear(hidden.narrow(0, first, count).to(at::kFloat), matrix.to(at::kFloat));
    EXPECT_LT(relative(found, (z / 6).tanh() * 6), 1e-5) << type;
  }
}

INSTANTIATE_TEST_SUITE_P(Devices, HeadLogits, each_device,
                         [](const auto& instance) { return test_name(instance.param); });

}  // namespace
}  // namespace fathom
