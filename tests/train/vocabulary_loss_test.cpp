// Every divergence against torch's formulas and autograd, and against its own differences.
#include "train/kernels/vocabulary_loss.h"

#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include "train/devices.h"
#include "train/ops/head_loss.h"

namespace fathom {
namespace {

constexpr std::int64_t rows = 7, vocab = 1'013;  // no multiple of any vector's length

struct Case {
  std::string name;
  LossWeights weights;
  double tolerance = 2e-5;
  at::ScalarType type = at::kFloat;
  Device device = Device::cpu;
};

struct Problem {
  at::Tensor logits, teacher;
  std::vector<std::int32_t> labels;
};

Problem problem(at::ScalarType type) {
  at::manual_seed(5);
  Problem result{.logits = (at::randn({rows, vocab}) * 3).to(type),
                 // Apart from row to row, as products write them.
                 .teacher = (at::randn({rows, vocab + 11}) * 3).to(type).narrow(1, 0, vocab),
                 .labels = {}};
  // The second row's student is its teacher, the third's are so far apart that exp() gives 0.
  result.teacher[1] = result.logits[1];
  result.teacher[2] *= 60;
  for (std::int64_t i = 0; i < rows; ++i)
    result.labels.push_back(static_cast<std::int32_t>(i * 7919 % vocab));
  result.labels[5] = -1;
  return result;
}

at::Tensor divergence(const at::Tensor& student, const at::Tensor& teacher, const LossWeights& weights) {
  const double t = weights.temperature;
  const at::Tensor log_q = (student / t).log_softmax(1), log_p = (teacher / t).log_softmax(1);
  const at::Tensor q = log_q.exp(), p = log_p.exp();
  switch (weights.kind) {
    case Divergence::forward_kl:
      return (p * (log_p - log_q)).sum() * t * t;
    case Divergence::reverse_kl:
      return (q * (log_q - log_p)).sum() * t * t;
    case Divergence::jensen_shannon: {
      const at::Tensor log_m = at::logaddexp(log_q, log_p) - std::log(2.0);
      return (p * (log_p - log_m) + q * (log_q - log_m)).sum() / 2 * t * t;
    }
    case Divergence::total_variation:
      break;
  }
  return (p - q).abs().sum() / 2 * t;
}

/// The loss of a device's head, for logits that are there.
class Loss {
 public:
  explicit Loss(Device device) : ops_(operations(device)), head_(ops_.head(&weight_, false)) {}

  at::Device device() const { return ops_.device(); }
  LossSums operator()(const LossWeights& weights, const at::Tensor& logits, const at::Tensor& teacher,
                      std::span<const std::int32_t> labels) const {
    return head_->vocabulary_loss(weights, logits, teacher.to(device()), labels);
  }

 private:
  Parameter weight_;
  const Operations& ops_;
  std::unique_ptr<Head> head_;
};

class VocabularyLoss : public testing::TestWithParam<Case> {};

TEST_P(VocabularyLoss, ValuesAndGradientsAreTorchs) {
  const auto& [name, weights, tolerance, type, device] = GetParam();
  if (!is_there(device)) GTEST_SKIP() << "no GPU";
  const Problem given = problem(type);
  const Loss loss(device);
  at::Tensor found = given.logits.clone().to(loss.device());
  const LossSums sums = loss(weights, found, given.teacher, given.labels);
  found = found.cpu();

  at::Tensor z = given.logits.to(at::kDouble).set_requires_grad(true);
  const at::Tensor student = weights.softcap == 0 ? z : (z / weights.softcap).tanh() * weights.softcap;
  const at::Tensor d = divergence(student, given.teacher.to(at::kDouble), weights);
  const at::Tensor targets = at::tensor(at::ArrayRef<std::int32_t>(given.labels), at::kLong);
  const at::Tensor ce = at::nll_loss(student.log_softmax(1), targets, {}, at::Reduction::Sum, -1);
  ((d * weights.divergence + ce * weights.cross_entropy) * weights.scale).backward();

  if (weights.divergence != 0) {
    EXPECT_NEAR(sums.divergence / d.item<double>(), 1, 2e-5);
  }
  EXPECT_NEAR(sums.cross_entropy / ce.item<double>(), 1, 2e-5);
  // Row by row: the third one's gradients are far larger than others'.
  const at::Tensor difference = (found.to(at::kDouble) - z.grad()).abs().amax(1),
                   size = z.grad().abs().amax(1);
  for (std::int64_t i = 0; i < rows; ++i) {
    EXPECT_LT(difference[i].item<double>(), tolerance * std::max(size[i].item<double>(), 1e-2))
        << "row " << i;
  }
}

class VocabularyLossSlope : public VocabularyLoss {};

TEST_P(VocabularyLossSlope, IsTheGradient) {
  const auto& [name, weights, tolerance, type, device] = GetParam();
  const Problem given = problem(type);
  const Loss loss(device);
  at::Tensor gradient = given.logits.clone();
  loss(weights, gradient, given.teacher, given.labels);
  const auto value = [&](std::int64_t row, std::int64_t entry, double step) {
    at::Tensor moved = given.logits.narrow(0, row, 1).clone();
    moved[0][entry] += step;
    const std::span label = std::span(given.labels).subspan(static_cast<std::size_t>(row), 1);
    const LossSums sums = loss(weights, moved, given.teacher.narrow(0, row, 1), label);
    return weights.scale *
           (weights.cross_entropy * sums.cross_entropy + weights.divergence * sums.divergence);
  };
  for (const std::int64_t row : {0, 3, 5}) {
    // Where the student and the teacher put most, and where neither puts much.
    for (const std::int64_t entry : {given.logits[row].argmax().item<std::int64_t>(),
                                     given.teacher[row].argmax().item<std::int64_t>(), std::int64_t{17}}) {
      const double slope = (value(row, entry, 0.01) - value(row, entry, -0.01)) / 0.02;
      EXPECT_NEAR(gradient[row][entry].item<double>(), slope, 2e-3 * weights.divergence)
          << row << " " << entry;
    }
  }
}

constexpr Divergence all[] = {Divergence::forward_kl, Divergence::reverse_kl, Divergence::jensen_shannon,
                              Divergence::total_variation};

const char* const names[] = {"ForwardKl", "ReverseKl", "JensenShannon", "TotalVariation"};

std::vector<Case> each(std::vector<Device> on, LossWeights weights, double tolerance = 2e-5,
                       at::ScalarType type = at::kFloat) {
  std::vector<Case> result;
  for (const Device device : on) {
    for (const Divergence kind : all) {
      weights.kind = kind;
      const std::string name = test_name(device) + names[static_cast<std::size_t>(kind)];
      result.push_back({name, weights, tolerance, type, device});
    }
  }
  return result;
}

const auto name_of_case = [](const auto& instance) { return instance.param.name; };

const LossWeights alone{.cross_entropy = 0, .divergence = 1};
const LossWeights mixed{
    .cross_entropy = 0.5F, .divergence = 2, .temperature = 2.5F, .softcap = 20, .scale = 0.1F};

const std::vector<Device> every = {Device::cpu, Device::torch, Device::cuda};

INSTANTIATE_TEST_SUITE_P(CrossEntropyOnly, VocabularyLoss, testing::Values(Case{"Cpu", {.scale = 0.1F}}),
                         name_of_case);
INSTANTIATE_TEST_SUITE_P(Alone, VocabularyLoss, testing::ValuesIn(each(every, alone)), name_of_case);
INSTANTIATE_TEST_SUITE_P(Mixed, VocabularyLoss, testing::ValuesIn(each(every, mixed)), name_of_case);
INSTANTIATE_TEST_SUITE_P(Bfloat16, VocabularyLoss,
                         testing::ValuesIn(each(every, {.divergence = 1}, 1e-2, at::kBFloat16)),
                         name_of_case);
INSTANTIATE_TEST_SUITE_P(Alone, VocabularyLossSlope, testing::ValuesIn(each({Device::cpu}, alone)),
                         name_of_case);
INSTANTIATE_TEST_SUITE_P(Mixed, VocabularyLossSlope, testing::ValuesIn(each({Device::cpu}, mixed)),
                         name_of_case);

}  // namespace
}  // namespace fathom
