// How a job's minutes are shared out, and how wide its steps are.
#include "compress/job_plan.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "base/progress.h"
#include "base/threads.h"
#include "compress/judge.h"
#include "compress/step_size.h"
#include "depth/tiny.h"

namespace fathom {
namespace {

using testing::HasSubstr;

// SmolLM2 on two cores with AMX, and on two of a Zen 3 without.
constexpr Pace fast = {.pack_seconds = 0.3,
                       .read = 9'600,
                       .write = 1'500,
                       .write_batch = 32,
                       .write_one = 110,
                       .multiply = 2.5e11,
                       .judge = 9'600,
                       .train = 980};
constexpr Pace slow = {.pack_seconds = 2,
                       .read = 400,
                       .write = 250,
                       .write_batch = 32,
                       .write_one = 30,
                       .multiply = 1.2e11,
                       .judge = 400,
                       .train = 40};
constexpr JobNeeds smollm2 = {.minutes = 10,
                              .candidates = 2,
                              .samples = true,
                              .context = 512,
                              .calibration_operations = 9.4e7,
                              .round_operations = 3.3e11};

/// What the plan's sizes take at that pace, counted anew.
double preparation(const JobPlan& plan, const JobNeeds& needs, const Pace& pace) {
  const double texts = static_cast<double>(judged_sample_tokens()) / pace.write_one;
  const double windows = static_cast<double>(plan.windows * needs.context) / pace.judge;
  return static_cast<double>(plan.sample_tokens) / pace.write +
         static_cast<double>(plan.profile_tokens) *
             (6 / pace.read + needs.calibration_operations / pace.multiply) +  // with the repairs
         static_cast<double>(plan.rounds) * needs.round_operations / pace.multiply +
         (1 + 2 * needs.candidates) * (pace.pack_seconds + windows) + (1 + needs.candidates) * texts +
         (1 + plan.speed_repetitions) * (512 / pace.read + 64 / pace.write_one);
}

TEST(JobPlan, PreparationIsAThirdAtMostAndTrainingHalfAtLeast) {
  for (const Pace& pace : {fast, slow}) {
    for (const double minutes : {5.0, 10.0, 60.0}) {
      JobNeeds needs = smollm2;
      needs.minutes = minutes;
      const JobPlan plan = plan_job(needs, pace);
      EXPECT_LE(preparation(plan, needs, pace), minutes * 20 + 1) << pace.read << ", " << minutes;
      EXPECT_LE(plan.preparation_seconds, minutes * 20 + 1) << pace.read << ", " << minutes;
      EXPECT_GE(plan.training_seconds, minutes * 30);
      EXPECT_LE(plan.training_seconds, minutes * 60);
    }
  }
}

TEST(JobPlan, AFastMachineGetsAllThatIsWorthMeasuringAndTheRestIsTraining) {
  const JobPlan plan = plan_job(smollm2, fast);
  EXPECT_EQ(plan.windows, 64);
  EXPECT_EQ(plan.profile_tokens, 16'384);
  EXPECT_EQ(plan.speed_repetitions, 3);
  EXPECT_GT(plan.training_seconds, 450);
  const JobPlan slower = plan_job(smollm2, slow);
  EXPECT_LT(slower.windows, 32);
  EXPECT_LT(slower.sample_tokens, plan.sample_tokens);
  EXPECT_LE(slower.rounds, plan.rounds);
}

TEST(JobPlan, TheLeastThatMakesSenseIsDoneHoweverFewTheMinutes) {
  JobNeeds needs = smollm2;
  needs.minutes = 0.1;
  const JobPlan plan = plan_job(needs, slow);
  EXPECT_EQ(plan.windows, 4);
  EXPECT_EQ(plan.profile_tokens, 2 * 512);
  EXPECT_EQ(plan.rounds, 4);
  EXPECT_EQ(plan.sample_tokens, 6 * 513);
  EXPECT_GE(plan.training_seconds, 3);  // half of them
}

TEST(JobPlan, WhatAJobDoesNotNeedTakesNoTime) {
  JobNeeds needs = smollm2;
  needs.samples = false;
  needs.candidates = 1;
  needs.calibration_operations = needs.round_operations = 0;
  const JobPlan plan = plan_job(needs, fast);
  EXPECT_EQ(plan.sample_tokens, 0);
  EXPECT_EQ(plan.rounds, 0);
  const std::string text = describe(plan, needs, "steps of 4 x 512 tokens on a machine");
  EXPECT_THAT(text, HasSubstr("profile on 16384 tokens"));
  EXPECT_THAT(text, HasSubstr("train, steps of 4 x 512 tokens on a machine"));
  EXPECT_THAT(text, testing::Not(HasSubstr("writes")));
  EXPECT_THAT(text, testing::Not(HasSubstr("tie")));
}

TEST(StepSize, GrowsAsLongAsThatPays) {
  // A device that is busy from 16 sequences on.
  const auto busy = [](std::int64_t sequences) {
    return StepCost{1000.0 * static_cast<double>(std::min<std::int64_t>(sequences, 16)),
                    1'000 + 100 * sequences};
  };
  const StepSize step = widest_step(busy, 0);
  EXPECT_EQ(step.sequences, 16);
  EXPECT_DOUBLE_EQ(step.learning_rate, 2);  // the root of four times the sequences
  EXPECT_DOUBLE_EQ(step.tokens_per_second, 16'000);
}

TEST(StepSize, StaysWithinMemory) {
  std::int64_t widest = 0;
  const auto cost = [&](std::int64_t sequences) {
    widest = std::max(widest, sequences);
    return StepCost{1000.0 * static_cast<double>(sequences), 1'000 + 100 * sequences};
  };
  EXPECT_EQ(widest_step(cost, 1'000'000).sequences, 32);
  widest = 0;
  EXPECT_EQ(widest_step(cost, 3'600).sequences, 16);  // 32 take 4,200
  EXPECT_EQ(widest, 16);                              // and are not even tried
  EXPECT_EQ(widest_step(cost, 1'500).sequences, 4);
}

TEST(StepSize, IsProbedByRealStepsOfATorchDevice) {
  set_threads(1);
  set_quiet(true);
  TrainOptions training;
  training.context = 16;
  training.loss = {.cross_entropy = 0, .divergence = 1};
  training.device = Device::torch;
  const StepSize step = probe_step(deep_model("llama", 4), training);
  EXPECT_GT(step.tokens_per_second, 0);
  EXPECT_GE(step.sequences, 4);
  training.device = Device::cpu;
  EXPECT_EQ(probe_step(deep_model("llama", 4), training).sequences, 4);
}

}  // namespace
}  // namespace fathom
