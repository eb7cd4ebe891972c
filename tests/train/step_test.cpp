// A step's loss and gradients with exits, hidden states and layer dropout against plain torch formulas over
// the model's residual streams, whose own gradients parity_test.cpp holds against transformers.
#include "train/step/step_runner.h"

#include <ATen/core/grad_mode.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>

#include "depth/prune.h"
#include "train/devices.h"
#include "train/model/layer_dropout.h"
#include "train/ops/hidden_loss.h"
#include "train/small_run.h"

namespace fathom {
namespace {

constexpr std::int64_t context = 6, sequences = 4, vocab = 80;

std::vector<MixedSource> text() {
  std::vector<Token> tokens;
  for (int i = 0; i < sequences * context - 1; ++i) tokens.push_back((i * 37 + 11) % (vocab - 2) + 2);
  return {{.store = store_documents({tokens}, 1, "text")}};
}

struct Case {
  const char* name;
  LossOptions loss;
  ExitOptions exits;
  double hidden = 0, layer_dropout = 0;
};

class Step : public testing::TestWithParam<std::tuple<Device, Case>> {};

/// The same step, a sequence at a time, by torch's operations alone from the residual streams on.
double plain_step(TrainModel& model, TrainModel& teacher, Packing& packing, const TrainOptions& options,
                  std::int64_t number, std::int64_t steps) {
  const at::Tensor head = model.head().weight().values;
  const double learned = sequences * context;
  double total = 0;
  for (std::int64_t i = 0; i < sequences; ++i) {
    const std::int64_t position = number * sequences + i;
    const Sequence sequence = packing.at(position);
    const auto tensor = [](const std::vector<Token>& ids) {
      return at::tensor(at::ArrayRef<Token>(ids), at::kLong);
    };
    const at::Tensor ids = tensor(sequence.inputs).view({1, -1}), labels = tensor(sequence.labels);
    std::vector<std::int64_t> every, teachers;
    for (std::int64_t visit = 0; visit < model.depth(); ++visit) every.push_back(visit);
    for (std::int64_t visit = 0; visit < teacher.depth(); ++visit) teachers.push_back(visit);
    const KeptSequences kept =
        kept_sequences(options.layer_dropout, options.seed, model.depth(), number, steps, {&position, 1});
    const std::vector<at::Tensor> streams = model.streams(ids, every, kept),
                                  wanted = teacher.streams(ids, teachers);
    const auto log_softmax = [](TrainModel& of, const at::Tensor& stream, const at::Tensor& weight) {
      return at::linear(of.final_norm(stream), weight).log_softmax(1);
    };
    const auto kl = [](const at::Tensor& log_p, const at::Tensor& log_q) {
      return (log_p.exp() * (log_p - log_q)).sum();
    };
    const at::Tensor last = log_softmax(model, streams.back(), head);
    at::Tensor loss = at::zeros({}, at::kFloat);
    for (const ExitWeight& exit : exit_weights(options.exits, model.depth(), number, steps)) {
      const at::Tensor own = log_softmax(model, streams[static_cast<std::size_t>(exit.visit)], head);
      const bool is_last = exit.visit == model.depth() - 1;
      const at::Tensor target =
          is_last ? log_softmax(teacher, wanted.back(), teacher.head().weight().values) : last;
      const double ce = is_last ? options.loss.cross_entropy : options.exits.cross_entropy,
                   divergence = is_last ? options.loss.divergence : options.exits.divergence;
      loss = loss + exit.weight * (ce * at::nll_loss(own, labels, {}, at::Reduction::Sum) +
                                   divergence * kl(target.detach(), own));
    }
    for (const HiddenPair& pair : options.hidden.pairs) {
      const at::Tensor target = wanted[static_cast<std::size_t>(pair.teacher)].detach(),
                       difference = streams[static_cast<std::size_t>(pair.student)] - target;
      loss = loss + options.hidden.weight * (difference.norm(2, 1) / target.norm(2, 1)).square().sum() /
                        static_cast<double>(options.hidden.pairs.size());
    }
    loss = loss / learned;
    loss.backward();
    total += loss.item<double>();
  }
  return total;
}

TEST_P(Step, LossAndGradientsAreTorchs) {
  const auto& [device, given] = GetParam();
  if (!is_there(device)) GTEST_SKIP() << "no GPU";
  TrainOptions options;
  options.context = context;
  options.micro_batch = 3;  // 3 + 1
  options.tokens_per_step = sequences * context;
  options.bf16 = false;
  options.seed = 5;
  options.loss = given.loss;
  options.exits = given.exits;
  options.layer_dropout.rate = given.layer_dropout;
  options.hidden.weight = given.hidden;
  if (options.hidden.weight > 0) options.hidden.pairs = {{0, 1}, {1, 2}};

  const Checkpoint original = tiny();
  const std::vector<std::int64_t> dropped = {1};
  const Checkpoint checkpoint = options.hidden.weight > 0 ? prune(original, dropped) : original;
  TrainModel model(checkpoint, {.device = device}), twin(checkpoint, {}), plain_teacher(original, {});
  Packing packing(text(), {.context = context, .vocab = vocab, .seed = 5});
  std::unique_ptr<Teacher> teacher;
  if (options.loss.divergence > 0 || options.hidden.weight > 0) {
    teacher = make_teacher(original, context, false, device);
  }
  std::optional<CachedTeacher> cached;
  const Ranks alone;
  Buckets buckets(model.parameters(), checkpoint.plan, alone, false);
  StepRunner runner(model, packing, teacher, cached, buckets, alone, options);
  const StepLoss found = runner.run(7, 9);

  EXPECT_NEAR(found.total, plain_step(twin, plain_teacher, packing, options, 7, 9), 2e-5);
  for (const auto& [name, parameter] : model.parameters()) {
    const Parameter& other = twin.parameters().at(name);
    // The head's part came to the twin by way of torch.
    const at::Tensor expected =
        other.values.grad().defined() ? other.gradient + other.values.grad() : other.gradient;
    if (name.starts_with("model.layers.")) {
      EXPECT_GT(expected.abs().max().item<double>(), 0) << name;
    }
    EXPECT_LT((parameter.gradient.cpu() - expected).abs().max().item<double>(),
              1e-4 * expected.abs().max().item<double>() + 1e-6)
        << name;
  }
}

INSTANTIATE_TEST_SUITE_P(
    Losses, Step,
    testing::Combine(
        each_device,
        testing::Values(Case{"Plain", {}, {}}, Case{"Aggressive", {}, {.visits = {0, 1}, .divergence = 0}},
                        Case{"SelfDistilled", {}, {.visits = {1}, .alpha = 0.3, .cross_entropy = 0}},
                        Case{"WeightedWithATeacher",
                             {.cross_entropy = 0.5, .divergence = 1},
                             {.visits = {0, 1}, .weighting = ExitWeighting::weighted}},
                        Case{"LayerSkip",
                             {},
                             {.visits = {0, 1},
                              .weighting = ExitWeighting::layerskip,
                              .curriculum = ExitCurriculum::rotational,
                              .rotation = 2,
                              .divergence = 0},
                             0,
                             0.6},
                        Case{"Hidden", {}, {}, 0.7}, Case{"HiddenAlone", {.cross_entropy = 0}, {}, 1},
                        Case{"All", {.divergence = 0.5}, {.visits = {0}}, 0.2, 0.5})),
    [](const auto& instance) {
      return test_name(std::get<0>(instance.param)) + std::get<1>(instance.param).name;
    });

TEST(Streams, AreTransformersHiddenStates) {
  const Oracle oracle = load_oracle("llama");
  TrainModel model(load_checkpoint(oracle.model), {});
  const at::NoGradGuard no_grad;
  const at::Tensor ids = at::tensor(at::ArrayRef<Token>(oracle.ids), at::kLong).view({1, -1});
  const std::vector<std::int64_t> visits = {0, 2};
  const auto streams = model.streams(ids, visits);
  ASSERT_EQ(streams.size(), 2U);
  for (std::size_t i = 0; i < 2; ++i) {
    const std::span<const float> found(streams[i].data_ptr<float>(),
                                       static_cast<std::size_t>(streams[i].numel()));
    EXPECT_LT(largest_difference(found, oracle.hidden[static_cast<std::size_t>(visits[i]) + 1]), 1e-4);
  }
}

class WhatATeacherGives : public testing::TestWithParam<Device> {};

TEST_P(WhatATeacherGives, AreTheHiddenStatesAndLogitsOfWhatIsLearned) {
  if (!is_there(GetParam())) GTEST_SKIP() << "no GPU";
  const Oracle oracle = load_oracle("llama");
  const auto teacher = make_teacher(load_checkpoint(oracle.model), 64, false, GetParam());
  Sequence sequence{.inputs = oracle.ids, .labels = oracle.ids, .starts = {0}};
  sequence.labels[0] = sequence.labels[2] = -1;
  teacher->read({sequence}, {1});
  const std::size_t entries = oracle.logits.size() / oracle.ids.size();
  std::vector<float> expected, logits;
  for (std::size_t row = 0; row < oracle.ids.size(); ++row) {
    if (sequence.labels[row] < 0) continue;
    const auto from = oracle.hidden[2].begin() + static_cast<std::ptrdiff_t>(row * 24);
    expected.insert(expected.end(), from, from + 24);
    const auto own = oracle.logits.begin() + static_cast<std::ptrdiff_t>(row * entries);
    logits.insert(logits.end(), own, own + static_cast<std::ptrdiff_t>(entries));
  }
  const auto floats = [](const at::Tensor& values) {
    const at::Tensor here = values.cpu().contiguous();
    return std::vector<float>(here.data_ptr<float>(), here.data_ptr<float>() + here.numel());
  };
  EXPECT_LT(largest_difference(floats(teacher->stream(1)), expected), 1e-4);
  const auto rows = std::ssize(oracle.ids) - 2;
  std::vector<float> found = floats(teacher->logits(0, 1, false));
  for (const float logit : floats(teacher->logits(1, rows - 1, false))) found.push_back(logit);
  EXPECT_LT(largest_difference(found, logits), 1e-4);
  // In bfloat16 they are within half of its last place, 2^-8 of themselves at most.
  const float most = *std::ranges::max_element(logits, {}, [](float logit) { return std::abs(logit); });
  found = floats(teacher->logits(0, rows, true).to(at::kFloat));
  EXPECT_LT(largest_difference(found, logits), std::abs(most) / 256 + 1e-4);
}

INSTANTIATE_TEST_SUITE_P(Devices, WhatATeacherGives, each_device,
                         [](const auto& instance) { return test_name(instance.param); });

TEST(LayerDropout, LeavesOutWhatAModelWithoutTheLayerDoes) {
  const Checkpoint original = tiny();
  const std::vector<std::int64_t> dropped = {1};
  const Checkpoint without = prune(original, dropped);
  const at::Tensor ids = at::arange(18, at::kLong).view({3, 6});
  const std::int64_t last = 2, last_without = 1;

  TrainModel model(original, {});
  const at::Tensor found = model.streams(ids, {&last, 1}, {{0, 1, 2}, {0, 2}, {0, 1, 2}}).front();
  found.square().sum().backward();

  TrainModel whole(original, {}), cut(without, {});
  const std::vector<std::int64_t> kept = {0, 2};
  const at::Tensor own = whole.streams(ids.index_select(0, at::tensor(kept)), {&last, 1}).front(),
                   others = cut.streams(ids.narrow(0, 1, 1), {&last_without, 1}).front();
  (own.square().sum() + others.square().sum()).backward();

  EXPECT_TRUE(at::allclose(found, at::cat({own.narrow(0, 0, 6), others, own.narrow(0, 6, 6)}), 1e-5, 1e-6));
  for (const auto& [name, parameter] : model.parameters()) {
    // Layer 2 is layer 1 of the cut model.
    const bool is_dropped = name.starts_with("model.layers.1.");
    const std::string there =
        name.starts_with("model.layers.2.") ? "model.layers.1." + name.substr(15) : name;
    at::Tensor expected = whole.parameters().at(name).gradient;
    if (!is_dropped) expected = expected + cut.parameters().at(there).gradient;
    // An entry may be the small difference of large products: as far off as float32's last bits of these.
    const double largest = expected.abs().max().item<double>();
    EXPECT_TRUE(at::allclose(parameter.gradient, expected, 1e-5, 1.5e-7 * largest)) << name;
  }
}

TEST(LayerDropout, FollowsItsSchedules) {
  LayerDropoutOptions options{.rate = 0.2};
  EXPECT_EQ(drop_probability(options, 0, 32, 5, 10), 0);
  EXPECT_NEAR(drop_probability(options, 16, 32, 5, 10), 0.2 * 0.430, 1e-4);  // 2^(16 / 31) - 1
  EXPECT_DOUBLE_EQ(drop_probability(options, 31, 32, 5, 10), 0.2);
  options.grows = true;
  EXPECT_EQ(drop_probability(options, 31, 32, 0, 10), 0);
  EXPECT_NEAR(drop_probability(options, 31, 32, 3, 10), 0.2 * (std::exp2(3.0 / 9) - 1), 1e-9);
  EXPECT_DOUBLE_EQ(drop_probability(options, 31, 32, 9, 10), 0.2);
}

TEST(LayerDropout, DrawsBySeedStepSequenceAndVisit) {
  const LayerDropoutOptions options{.rate = 0.25};
  std::vector<std::int64_t> positions(4000);
  for (std::size_t i = 0; i < positions.size(); ++i) positions[i] = static_cast<std::int64_t>(i);
  const auto draws = [&](std::uint64_t seed, std::int64_t step) {
    return kept_sequences(options, seed, 5, step, 100, positions);
  };
  const KeptSequences kept = draws(1, 2);
  for (std::int64_t visit = 0; visit < 5; ++visit) {
    const double dropped = 1 - static_cast<double>(kept[static_cast<std::size_t>(visit)].size()) / 4000;
    EXPECT_NEAR(dropped, drop_probability(options, visit, 5, 2, 100), 0.02) << visit;  // 3 deviations
  }
  EXPECT_EQ(kept, draws(1, 2));
  EXPECT_NE(kept, draws(2, 2));
  EXPECT_NE(kept, draws(1, 3));
  EXPECT_NE(kept[3], kept[4]);
  // Any part of a batch draws as the whole does.
  const auto part = kept_sequences(options, 1, 5, 2, 100, std::span(positions).subspan(100, 50));
  std::vector<std::int64_t> same;
  for (const std::int64_t i : kept[4]) {
    if (i >= 100 && i < 150) same.push_back(i - 100);
  }
  EXPECT_EQ(part[4], same);
}

TEST(HiddenLoss, IsRelativeByToken) {
  at::manual_seed(2);
  const at::Tensor student = at::randn({7, 13}).set_requires_grad(true), teacher = at::randn({7, 13});
  at::Tensor gradient;
  const double sum = hidden_loss(student.detach(), teacher, 0.3, gradient);
  at::Tensor expected = at::zeros({}, at::kFloat);
  for (std::int64_t i = 0; i < 7; ++i) {
    expected = expected + at::mse_loss(student[i], teacher[i]) / teacher[i].square().mean();
  }
  (expected * 0.3).backward();
  EXPECT_NEAR(sum, expected.item<double>(), 1e-5);
  EXPECT_TRUE(at::allclose(gradient, student.grad(), 1e-5, 1e-7));
}

}  // namespace
}  // namespace fathom
