// Whole runs on the tiny Llama.
#include "train/train.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <fstream>

#include "base/error.h"
#include "base/file.h"
#include "base/progress.h"
#include "base/random.h"
#include "base/threads.h"
#include "damage.h"
#include "model/checkpoint.h"
#include "scratch.h"
#include "train/devices.h"
#include "train/small_run.h"
#include "train/step/schedule.h"

namespace fathom {
namespace {

namespace fs = std::filesystem;

/// Models this small are not worth a second thread, least of all on a machine that has other work.
class OneThread : public testing::Environment {
 public:
  void SetUp() override {
    set_threads(1);
    set_quiet(true);
  }
};
const testing::Environment* const one_thread =
    testing::AddGlobalTestEnvironment(std::make_unique<OneThread>().release());

std::vector<std::vector<Token>> text() {
  Random random(11);
  std::vector<std::vector<Token>> documents(9);
  for (auto& document : documents) {
    for (int i = 0; i < 30; ++i) document.push_back(static_cast<Token>(random.below(60)));
  }
  return documents;
}

TrainResult train(const Checkpoint& student, const Checkpoint* teacher,
                  const std::vector<std::vector<Token>>& documents, Token separator,
                  const TrainOptions& options, const fs::path& work, bool resume) {
  const TokenStore store = store_documents(documents, separator, "documents");
  return train({.student = student, .teacher = teacher, .text = {{.store = store}}}, options, work, resume);
}

std::vector<double> losses(const TrainResult& result) {
  std::vector<double> values;
  for (const TrainStep& step : result.steps) values.push_back(step.loss);
  return values;
}

void expect_same_tensors(const Checkpoint& a, const Checkpoint& b) {
  ASSERT_EQ(a.tensors.size(), b.tensors.size());
  for (const auto& [name, tensor] : a.tensors) EXPECT_EQ(decode(tensor), decode(b.tensors.at(name))) << name;
}

std::string slurp(const fs::path& path) { return read_file(path); }

fs::path newest_checkpoint(const fs::path& work) {
  std::vector<fs::path> all;
  for (const auto& entry : fs::directory_iterator(work / "checkpoints")) all.push_back(entry.path());
  return *std::ranges::max_element(all);
}

TEST(Train, OverfitsATinyText) {
  const test::Scratch scratch;
  TrainOptions options = small(120);
  options.bf16 = false;
  const TrainResult result =
      train(tiny(), nullptr, {{5, 6, 7, 8, 9, 10, 11}}, 1, options, scratch.path(), false);
  ASSERT_EQ(result.steps.size(), 120U);
  EXPECT_GT(result.steps.front().loss, 3);
  EXPECT_LT(result.steps.back().loss, 0.1);
  EXPECT_EQ(result.steps.back().tokens, 120 * 64);
  EXPECT_FALSE(result.interrupted);
}

TEST(Train, BfloatTrainsAsFloatDoes) {
  const test::Scratch a, b;
  TrainOptions options = small(20);
  options.seed = 1;  // the order decides how far rounding carries: to 0.008 or 0.027 over ten seeds
  const auto rounded = losses(train(tiny(), nullptr, text(), 1, options, a.path(), false));
  options.bf16 = false;
  const auto exact = losses(train(tiny(), nullptr, text(), 1, options, b.path(), false));
  for (std::size_t i = 0; i < exact.size(); ++i) EXPECT_NEAR(rounded[i], exact[i], 0.02) << "step " << i;
}

TEST(Train, DistillationBringsTheStudentToItsTeacher) {
  const test::Scratch scratch;
  Checkpoint student = tiny();
  student.plan.visits.pop_back();
  TrainOptions options = small(60);
  options.loss.cross_entropy = 0;
  options.loss.divergence = 1;
  const Checkpoint teacher = tiny();
  const TrainResult result = train(student, &teacher, text(), 1, options, scratch.path(), false);
  EXPECT_GT(result.steps.front().kl, 0);
  EXPECT_LT(result.steps.back().kl, result.steps.front().kl / 4);

  const test::Scratch other;
  options.tokens = 64;
  options.bf16 = false;
  EXPECT_LT(train(teacher, &teacher, text(), 1, options, other.path(), false).steps[0].kl, 1e-6);
}

TEST(Train, AccumulatedMicroBatchesAreOneBatch) {
  const test::Scratch a, b;
  TrainOptions options = small(3);
  options.bf16 = false;
  const TrainResult two = train(tiny(), nullptr, text(), 1, options, a.path(), false);
  options.micro_batch = 3;  // 3 + 1
  const TrainResult three = train(tiny(), nullptr, text(), 1, options, b.path(), false);
  for (std::size_t i = 0; i < 3; ++i) EXPECT_NEAR(two.steps[i].loss, three.steps[i].loss, 1e-5);
}

class Resume : public testing::TestWithParam<std::tuple<Device, Trainable>> {};

TEST_P(Resume, GoesOnToTheLastBit) {
  const auto& [device, trainable] = GetParam();
  const test::Scratch whole, stopped;
  TrainOptions options = small(9);
  options.device = device;
  options.trainable = trainable;
  options.lora.rank = 4;
  options.lora.merge = false;
  options.loss.divergence = 0.5;
  options.optimiser.weight_decay = 0.1;
  options.exits = {.visits = {0, 1}, .curriculum = ExitCurriculum::gradual};
  options.layer_dropout = {.rate = 0.5, .grows = true};
  options.hidden = {.weight = 0.1, .pairs = {{1, 1}}};
  const Checkpoint model = tiny();
  const TrainResult reference = train(model, &model, text(), 1, options, whole.path(), false);

  // A run that dies after step 5: what it had written by then is all that the second one finds.
  options.checkpoint_every = 4;
  train(model, &model, text(), 1, options, stopped.path(), false);
  fs::remove_all(newest_checkpoint(stopped.path()));
  const std::string metrics = slurp(stopped / "metrics.jsonl");
  std::size_t end = 0;
  for (int line = 0; line < 5; ++line) end = metrics.find('\n', end) + 1;
  std::ofstream(stopped / "metrics.jsonl") << metrics.substr(0, end) << "{\"step\": 6, \"tok";

  const TrainResult resumed = train(model, &model, text(), 1, options, stopped.path(), true);
  EXPECT_EQ(losses(resumed), losses(reference));
  EXPECT_EQ(resumed.steps.size(), 9U);
  expect_same_tensors(resumed.model, reference.model);
  const std::string after = slurp(stopped / "metrics.jsonl");
  EXPECT_EQ(std::ranges::count(after, '\n'), 9);
}

// Not on a GPU, whose sums have no fixed order.
INSTANTIATE_TEST_SUITE_P(What, Resume,
                         testing::Combine(testing::Values(Device::cpu, Device::torch),
                                          testing::Values(Trainable::all, Trainable::lora)),
                         [](const auto& instance) {
                           const bool all = std::get<1>(instance.param) == Trainable::all;
                           return test_name(std::get<0>(instance.param)) + (all ? "All" : "Lora");
                         });

class TrainOn : public testing::TestWithParam<Device> {};

TEST_P(TrainOn, IsAsByTheKernels) {
  if (!is_there(GetParam())) GTEST_SKIP() << "no GPU";
  const test::Scratch a, b;
  Checkpoint student = tiny();
  student.plan.visits.pop_back();
  const Checkpoint teacher = tiny();
  TrainOptions options = small(10);
  options.loss.divergence = 1;
  options.exits = {.visits = {0}};
  options.hidden = {.weight = 0.1, .pairs = {{1, 2}}};
  options.bf16 = false;
  const auto expected = losses(train(student, &teacher, text(), 1, options, a.path(), false));
  options.device = GetParam();
  const auto found = losses(train(student, &teacher, text(), 1, options, b.path(), false));
  for (std::size_t i = 0; i < expected.size(); ++i) EXPECT_NEAR(found[i], expected[i], 1e-4) << "step " << i;
}

TEST_P(TrainOn, ARunGoesOnAnotherDevice) {
  if (!is_there(GetParam())) GTEST_SKIP() << "no GPU";
  const test::Scratch whole, moved;
  TrainOptions options = small(6);
  options.checkpoint_every = 3;
  options.bf16 = false;
  const auto expected = losses(train(tiny(), nullptr, text(), 1, options, whole.path(), false));
  train(tiny(), nullptr, text(), 1, options, moved.path(), false);
  fs::remove_all(newest_checkpoint(moved.path()));
  options.device = GetParam();
  const TrainResult resumed = train(tiny(), nullptr, text(), 1, options, moved.path(), true);
  ASSERT_EQ(resumed.steps.size(), 6U);
  for (std::size_t i = 0; i < 6; ++i) EXPECT_NEAR(resumed.steps[i].loss, expected[i], 1e-4) << "step " << i;
}

INSTANTIATE_TEST_SUITE_P(Devices, TrainOn, torch_devices,
                         [](const auto& instance) { return test_name(instance.param); });

TEST(Train, AGpuThatIsNotThereIsAnErrorThatSaysWhatToDo) {
  if (is_there(Device::cuda)) GTEST_SKIP() << "it is there";
  const test::Scratch scratch;
  TrainOptions options = small(2);
  options.device = Device::cuda;
  try {
    train(tiny(), nullptr, text(), 1, options, scratch / "run", false);
    FAIL() << "trained on a GPU";
  } catch (const Error& error) {
    EXPECT_THAT(error.what(), testing::HasSubstr("--device cuda"));
    EXPECT_THAT(error.what(), testing::HasSubstr("train with --device cpu"));
  }
  EXPECT_FALSE(fs::exists(scratch / "run"));
}

TEST(Train, CheckpointsAreKeptByTheClockToo) {
  const auto kept = [](double minutes) {
    const test::Scratch scratch;
    TrainOptions options = small(4);
    options.checkpoint_minutes = minutes;
    train(tiny(), nullptr, text(), 1, options, scratch.path(), false);
    std::vector<std::string> names;
    for (const auto& entry : fs::directory_iterator(scratch / "checkpoints"))
      names.push_back(entry.path().filename().string());
    return names;
  };
  EXPECT_THAT(kept(1e-9), testing::UnorderedElementsAre("step-00000003", "step-00000004"));
  EXPECT_THAT(kept(60), testing::IsEmpty());
}

TEST(Train, ACheckpointOfAnotherRunIsRefused) {
  const test::Scratch scratch;
  TrainOptions options = small(4);
  options.checkpoint_every = 2;
  train(tiny(), nullptr, text(), 1, options, scratch.path(), false);
  options.optimiser.learning_rate = 1e-3;
  try {
    train(tiny(), nullptr, text(), 1, options, scratch.path(), true);
    FAIL() << "resumed with another learning rate";
  } catch (const Error& error) {
    EXPECT_THAT(error.what(), testing::HasSubstr("options.learning_rate (was 0.003, is 0.001)"));
  }
  options.optimiser.learning_rate = 3e-3;
  EXPECT_THROW(train(tiny(), nullptr, {{1, 2, 3}}, 1, options, scratch.path(), true), Error);
}

TEST(Train, DamagedCheckpointsAreErrorsOrPassedOver) {
  const test::Scratch scratch;
  TrainOptions options = small(4);
  options.checkpoint_every = 2;
  options.trainable = Trainable::lora;
  options.lora.targets = {Linear::q};
  options.lora.rank = 1;
  const Checkpoint model = tiny();
  const TrainResult reference = train(model, nullptr, text(), 1, options, scratch.path(), false);
  const fs::path newest = newest_checkpoint(scratch.path());
  testing::internal::CaptureStderr();
  for (const char* name : {"state.json", "state.safetensors"}) {
    const std::string original = slurp(newest / name);
    for (std::uint64_t seed = 0; seed < 25; ++seed) {
      std::ofstream(newest / name) << test::damaged(original, seed);
      try {
        // Either the damage did not matter, or the checkpoint before it is taken: the run ends the same.
        const TrainResult result = train(model, nullptr, text(), 1, options, scratch.path(), true);
        if (result.steps.size() == 4) {
          EXPECT_EQ(losses(result), losses(reference));
        }
      } catch (const Error& error) {
        EXPECT_THAT(error.what(), testing::HasSubstr("step-")) << seed;
      }
    }
    std::ofstream(newest / name) << original;
  }
  EXPECT_THAT(testing::internal::GetCapturedStderr(),
              testing::HasSubstr("passing over a damaged checkpoint"));
}

TEST(Train, LoraMergedIsLoraKept) {
  const test::Scratch a, b;
  TrainOptions options = small(6);
  options.bf16 = false;
  options.trainable = Trainable::lora;
  options.lora.rank = 4;
  options.lora.alpha = 8;  // twice
  options.optimiser.learning_rate = 1e-2;
  const Checkpoint model = tiny();
  const Checkpoint merged = train(model, nullptr, text(), 1, options, a.path(), false).model;
  options.lora.merge = false;
  const Checkpoint kept = train(model, nullptr, text(), 1, options, b.path(), false).model;
  EXPECT_TRUE(merged.plan.is_plain());
  EXPECT_EQ(kept.plan.adapters(), model.plan.depth());
  validate(merged);
  validate(kept);
  const std::vector<Token> ids = {3, 1, 4, 15, 9, 2, 6};
  const auto logits = train_logits(kept, ids);
  EXPECT_LT(largest_difference(train_logits(merged, ids), logits), 1e-4);
  EXPECT_GT(largest_difference(train_logits(model, ids), logits), 1e-2);
  for (const auto& [name, tensor] : model.tensors) {
    const bool target = name.find("mlp.") != std::string::npos;
    EXPECT_EQ(decode(merged.tensors.at(name)) == decode(tensor), !target) << name;
  }
}

TEST(Train, OnlyTheAdaptersMove) {
  const test::Scratch first, second;
  TrainOptions options = small(2);
  options.trainable = Trainable::lora;
  options.lora.merge = false;
  const Checkpoint adapted = train(tiny(), nullptr, text(), 1, options, first.path(), false).model;
  options.trainable = Trainable::adapters;
  const Checkpoint trained = train(adapted, nullptr, text(), 1, options, second.path(), false).model;
  for (const auto& [name, tensor] : adapted.tensors) {
    const bool adapter = name.starts_with("model.adapters.");
    EXPECT_EQ(decode(trained.tensors.at(name)) == decode(tensor), !adapter) << name;
  }
  EXPECT_THROW(train(tiny(), nullptr, text(), 1, options, first.path(), false), Error);
}

TEST(Train, SaysWhatDoesNotFit) {
  const test::Scratch scratch;
  const TrainOptions options = small(2);
  EXPECT_THROW(train(tiny(), nullptr, {{1, 2, 3000}}, 1, options, scratch.path(), false), Error);
  TrainOptions wrong = options;
  wrong.loss.divergence = 1;
  EXPECT_THROW(train(tiny(), nullptr, text(), 1, wrong, scratch.path(), false), UsageError);
  wrong = options;
  wrong.optimiser.min_learning_rate = 1;
  EXPECT_THROW(train(tiny(), nullptr, text(), 1, wrong, scratch.path(), false), UsageError);
}

TEST(Train, ANotANumberIsAnErrorThatNamesTheStep) {
  const test::Scratch scratch;
  Checkpoint model = tiny();
  std::vector<float> broken = decode(model.tensor("model.norm.weight"));
  broken[0] = std::numeric_limits<float>::quiet_NaN();
  model.tensors["model.norm.weight"] =
      make_tensor(DType::f32, {static_cast<std::int64_t>(broken.size())}, broken);
  try {
    train(model, nullptr, text(), 1, small(2), scratch.path(), false);
    FAIL() << "trained with NaN";
  } catch (const Error& error) {
    EXPECT_THAT(error.what(), testing::HasSubstr("at step 1 the loss is nan"));
  }
}

TEST(Schedule, WarmsUpAndFollowsTheCosine) {
  TrainOptions options;
  options.optimiser.learning_rate = 1;
  options.optimiser.min_learning_rate = 0.1;
  options.optimiser.warmup = 0.1;
  EXPECT_DOUBLE_EQ(learning_rate(options, 0, 100), 0.1);
  EXPECT_DOUBLE_EQ(learning_rate(options, 9, 100), 1);
  EXPECT_DOUBLE_EQ(learning_rate(options, 10, 100), 1);
  EXPECT_DOUBLE_EQ(learning_rate(options, 55, 100), 0.55);
  EXPECT_NEAR(learning_rate(options, 99, 100), 0.1, 1e-3);
}

TEST(Schedule, EndsWithTheTime) {
  TrainOptions options;
  options.max_minutes = 1;
  EXPECT_EQ(steps_in_time(options, 1, 2.0, 10, 1000, 1000), 26);  // 1 + 50 s / 2 s
  EXPECT_EQ(steps_in_time(options, 2, 1.0, 11, 26, 1000), 51);    // measuring: longer again
  EXPECT_EQ(steps_in_time(options, 2, 1.0, 11, 26, 40), 40);      // never more than the tokens ask for
  EXPECT_EQ(steps_in_time(options, 20, 1.02, 30, 50, 1000), 50);  // noise
  EXPECT_EQ(steps_in_time(options, 20, 2.0, 30, 50, 1000), 35);   // really slower
  EXPECT_EQ(steps_in_time(options, 20, 0.5, 30, 50, 1000), 50);   // faster: what was decided holds
  options.max_minutes = 0;
  EXPECT_EQ(steps_in_time(options, 20, 2.0, 30, 50, 1000), 50);
}

}  // namespace
}  // namespace fathom
