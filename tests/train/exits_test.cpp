// Which exits a step learns and how much they count; which hidden states answer to which.
#include "train/model/exits.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "base/error.h"
#include "depth/prune.h"
#include "depth/recur.h"
#include "oracle.h"
#include "train/model/hidden_pairs.h"

namespace fathom {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;

std::vector<std::int64_t> all_of(std::int64_t depth) {
  std::vector<std::int64_t> visits;
  for (std::int64_t visit = 0; visit + 1 < depth; ++visit) visits.push_back(visit);
  return visits;
}

std::vector<double> weights(const std::vector<ExitWeight>& exits) {
  std::vector<double> result;
  for (const ExitWeight& exit : exits) result.push_back(exit.weight);
  return result;
}

std::vector<std::int64_t> visits(const std::vector<ExitWeight>& exits) {
  std::vector<std::int64_t> result;
  for (const ExitWeight& exit : exits) result.push_back(exit.visit);
  return result;
}

TEST(Exits, CountAsTheRecursiveTransformersDo) {
  ExitOptions options{.visits = {4, 9}, .alpha = 0.25};
  EXPECT_THAT(weights(exit_weights(options, 15, 3, 10)), ElementsAre(0.25, 0.25, 1));
  EXPECT_THAT(visits(exit_weights(options, 15, 3, 10)), ElementsAre(4, 9, 14));
  options.weighting = ExitWeighting::weighted;
  EXPECT_THAT(weights(exit_weights(options, 15, 3, 10)), ElementsAre(1.0 / 6, 2.0 / 6, 3.0 / 6));
  EXPECT_THAT(weights(exit_weights({}, 15, 3, 10)), ElementsAre(1));
}

TEST(Exits, CountAsLayerSkipDoes) {
  ExitOptions options{.visits = all_of(32), .weighting = ExitWeighting::layerskip, .scale = 0.2};
  const auto every = exit_weights(options, 32, 0, 100);
  EXPECT_EQ(every.size(), 31U);  // e(0) is 0
  EXPECT_NEAR(every.back().weight, 124.0 / 1116, 1e-9);
  options.curriculum = ExitCurriculum::rotational;
  const auto some = exit_weights(options, 32, 0, 100);
  EXPECT_THAT(visits(some), ElementsAre(7, 15, 23, 31));
  const std::vector<double> expected = {5.6 / 208.8, 24 / 208.8, 55.2 / 208.8, 124 / 208.8};
  EXPECT_THAT(weights(some), testing::Pointwise(testing::DoubleNear(1e-9), expected));
}

TEST(Exits, TakeTurns) {
  ExitOptions options{.visits = all_of(30), .curriculum = ExitCurriculum::rotational, .rotation = 8};
  EXPECT_THAT(visits(exit_weights(options, 30, 1, 100)), ElementsAre(0, 8, 16, 24, 29));
  std::vector<int> times(30);
  for (std::int64_t step = 40; step < 48; ++step) {
    for (const std::int64_t visit : visits(exit_weights(options, 30, step, 100))) {
      ++times[static_cast<std::size_t>(visit)];
    }
  }
  EXPECT_EQ(times.back(), 8);
  times.pop_back();
  EXPECT_THAT(times, testing::Each(1));
}

TEST(Exits, ComeFromTheLastDown) {
  const ExitOptions options{.visits = all_of(10), .curriculum = ExitCurriculum::gradual};
  // One more each 200 / 20 steps.
  EXPECT_THAT(visits(exit_weights(options, 10, 0, 200)), ElementsAre(9));
  EXPECT_THAT(visits(exit_weights(options, 10, 9, 200)), ElementsAre(9));
  EXPECT_THAT(visits(exit_weights(options, 10, 10, 200)), ElementsAre(8, 9));
  EXPECT_THAT(visits(exit_weights(options, 10, 35, 200)), ElementsAre(6, 7, 8, 9));
  EXPECT_EQ(exit_weights(options, 10, 90, 200).size(), 10U);
}

TEST(Exits, AreNamed) {
  const auto plan = [](std::int64_t layers, Sharing sharing) {
    DepthPlan result{.layers = layers, .visits = {}};
    for (const std::int64_t layer : share_layers(12, 3, sharing)) result.visits.push_back({.layer = layer});
    return result;
  };
  EXPECT_THAT(parse_exits("loops", plan(4, Sharing::cycle)), ElementsAre(3, 7));
  DepthPlan middle{.layers = 5, .visits = {}};
  for (const std::int64_t layer : share_layers(11, 3, Sharing::middle_cycle))
    middle.visits.push_back({.layer = layer});
  EXPECT_THAT(parse_exits("loops", middle), ElementsAre(3, 6));
  EXPECT_THAT(parse_exits("2,5-7", middle), ElementsAre(2, 5, 6, 7));
  EXPECT_EQ(parse_exits("all", middle).size(), 10U);
  middle.visits[4].exit = true;
  EXPECT_THAT(parse_exits("plan", middle), ElementsAre(4));
  EXPECT_THROW(
      parse_exits(
          "loops",
          plan_from_json(
              JsonObject(Json::parse(R"({"layers": 2, "visits": [{"layer": 0}, {"layer": 1}]})"), "plan"),
              1)),
      UsageError);
  EXPECT_THROW(parse_exits("10", middle), UsageError);
  EXPECT_THROW(parse_exits("11", middle), UsageError);
  EXPECT_THROW(parse_exits("loop", middle), UsageError);
}

std::string pairs(const std::string& text, const Checkpoint& student, const Checkpoint& teacher) {
  std::string result;
  for (const HiddenPair& pair : parse_hidden_pairs(text, student, teacher)) {
    result += std::to_string(pair.student) + ":" + std::to_string(pair.teacher) + " ";
  }
  return result;
}

/// The tiny model with its layers repeated to this depth.
Checkpoint deep(std::int64_t depth) {
  Checkpoint model = load_checkpoint(load_oracle("llama").model);
  const std::vector<Visit> visits = model.plan.visits;
  while (model.plan.depth() < depth)
    model.plan.visits.push_back(visits[static_cast<std::size_t>(model.plan.depth()) % visits.size()]);
  return model;
}

TEST(HiddenPairs, AreTheSeamsOrEveryVisit) {
  const Checkpoint teacher = deep(10);
  EXPECT_EQ(pairs("auto", deep(3), deep(3)), "0:0 1:1 2:2 ");
  const std::vector<std::int64_t> block = {4, 5, 6}, end = {5, 6}, first = {0};
  const Checkpoint pruned = prune(teacher, block);
  EXPECT_EQ(pairs("auto", pruned, teacher), "3:6 ");
  EXPECT_EQ(pairs("auto", prune(pruned, end), teacher), "3:6 4:9 ");  // 8 and 9 of the teacher's
  EXPECT_EQ(pairs("auto", prune(pruned, end), pruned), "4:6 ");
  EXPECT_EQ(pairs("1:2,6:9", pruned, teacher), "1:2 6:9 ");
  EXPECT_THROW(pairs("auto", prune(teacher, first), teacher), UsageError);
  EXPECT_THROW(pairs("auto", deep(9), teacher), UsageError);
  for (const char* wrong : {"", "1", "1:", ":1", "7:1", "1:10", "1:2,", "a:b", "-1:2"}) {
    EXPECT_THROW(pairs(wrong, pruned, teacher), UsageError) << wrong;
  }
}

}  // namespace
}  // namespace fathom
