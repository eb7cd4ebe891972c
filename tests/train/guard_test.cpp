#include "train/step/guard.h"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>

namespace fathom {
namespace {

LossHistory usual(int steps) {
  LossHistory history;
  for (int i = 0; i < steps; ++i) history.add(3 + 0.1 * std::sin(i));  // standard deviation 0.07
  return history;
}

TEST(Guard, ASpikeIsFarAboveWhatIsUsual) {
  const LossHistory history = usual(200);
  EXPECT_NEAR(history.mean, 3, 0.02);
  EXPECT_NEAR(std::sqrt(history.variance), 0.0707, 0.02);
  const GuardOptions options{.on_spike = BadStep::skip, .spike_deviations = 8};
  EXPECT_FALSE(judge({.loss = 3.3}, history, options));
  EXPECT_FALSE(judge({.loss = 1}, history, options));  // low is no harm
  const auto verdict = judge({.loss = 4}, history, options);
  ASSERT_TRUE(verdict);
  EXPECT_EQ(verdict->action, BadStep::skip);
  EXPECT_FALSE(judge({.loss = 4}, history, {.spike_deviations = 0}));
}

TEST(Guard, TheFirstStepsHaveNoSpikes) {
  EXPECT_FALSE(judge({.loss = 50}, usual(10), {}));
  EXPECT_TRUE(judge({.loss = 50}, usual(30), {}));
}

TEST(Guard, WhatIsNoNumberIsAlwaysBad) {
  const double nan = std::numeric_limits<double>::quiet_NaN(),
               infinite = std::numeric_limits<double>::infinity();
  EXPECT_EQ(judge({.loss = nan}, {}, {})->action, BadStep::stop);
  EXPECT_EQ(judge({.loss = 1, .gradient_norm = infinite}, {}, {.on_nan = BadStep::skip})->action,
            BadStep::skip);
}

TEST(Guard, ManyBadStepsInARowStop) {
  LossHistory history = usual(30);
  history.skipped = 9;
  const auto verdict = judge({.loss = 50}, history, {.on_spike = BadStep::skip});
  EXPECT_EQ(verdict->action, BadStep::stop);
  EXPECT_NE(verdict->what.find("10 steps in a row"), std::string::npos);
}

TEST(Guard, TheHistoryLivesThroughACheckpointToTheLastBit) {
  const LossHistory history = usual(77);
  const Json json = parse_json(to_json(history).dump(), "history");
  const LossHistory read = history_from_json(JsonObject(json, "history"));
  EXPECT_EQ(read.mean, history.mean);
  EXPECT_EQ(read.variance, history.variance);
  EXPECT_EQ(read.steps, history.steps);
}

}  // namespace
}  // namespace fathom
