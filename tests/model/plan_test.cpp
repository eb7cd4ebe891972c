#include <gtest/gtest.h>

#include "base/error.h"
#include "model/depth_plan.h"

namespace fathom {
namespace {

DepthPlan plan_of(std::int64_t layers, const std::vector<std::int64_t>& order, bool adapters = false) {
  DepthPlan plan;
  plan.layers = layers;
  for (std::size_t i = 0; i < order.size(); i++)
    plan.visits.push_back({.layer = order[i], .adapter = adapters ? static_cast<std::int64_t>(i) : -1});
  return plan;
}

TEST(Plan, IsDescribedForPeople) {
  EXPECT_EQ(plain_plan({0, 0, 0}).describe(), "3 layers");
  EXPECT_EQ(plan_of(3, {0, 2}).describe(), "2 of 3 layers");
  EXPECT_EQ(plan_of(2, {0, 1, 0, 1}).describe(), "2 layers × 2 (cycle)");
  EXPECT_EQ(plan_of(2, {0, 0, 1, 1}, true).describe(), "2 layers × 2 (sequence), 4 adapters");
  EXPECT_EQ(plan_of(4, {0, 1, 1, 2, 2, 3}).describe(), "1 + 2 × 2 + 1 layers (middle-sequence)");
  EXPECT_EQ(plan_of(4, {0, 1, 2, 1, 2, 3}).describe(), "1 + 2 × 2 + 1 layers (middle-cycle)");
  EXPECT_EQ(plan_of(3, {0, 1, 1, 2, 2, 2}).describe(), "3 layers, 6 visits");
  EXPECT_EQ(plan_of(3, {2, 1, 0}).describe(), "3 layers in another order");
  DepthPlan exits = plain_plan({0, 0});
  exits.visits[0].exit = true;
  EXPECT_EQ(exits.describe(), "2 layers, 1 exit");
}

TEST(Plan, KnowsPlainFromRecursive) {
  EXPECT_TRUE(plain_plan({0, 1}).is_plain());
  EXPECT_FALSE(plan_of(2, {0, 1}, true).is_plain());
  EXPECT_FALSE(plan_of(3, {0, 1}).is_plain());
  EXPECT_FALSE(plan_of(3, {0, 2}).is_recursive());
  EXPECT_TRUE(plan_of(2, {0, 1, 0}).is_recursive());
  EXPECT_EQ(plan_of(2, {0, 1, 0}, true).adapters(), 3);
}

TEST(Plan, SurvivesJson) {
  DepthPlan plan = plan_of(3, {0, 1, 1, 2}, true);
  plan.visits[1].type = 1;
  plan.visits[2].exit = true;
  const Json json = to_json(plan);
  EXPECT_EQ(plan_from_json(JsonObject(json, "config.json"), 2), plan);
  EXPECT_FALSE(json["visits"][0].contains("type"));
}

TEST(Plan, IndicesOutOfRangeAreRefused) {
  const auto refused = [](const char* text) {
    const Json json = parse_json(text, "config.json");
    EXPECT_THROW(plan_from_json(JsonObject(json, "config.json"), 1), Error) << text;
  };
  refused(R"({"visits": [{"layer": 0}]})");
  refused(R"({"layers": 1})");
  refused(R"({"layers": 0, "visits": [{"layer": 0}]})");
  refused(R"({"layers": 9999999, "visits": [{"layer": 0}]})");
  refused(R"({"layers": 1, "visits": []})");
  refused(R"({"layers": 1, "visits": [{"layer": 1}]})");
  refused(R"({"layers": 1, "visits": [{"layer": -1}]})");
  refused(R"({"layers": 1, "visits": [{"layer": 0, "type": 1}]})");
  refused(R"({"layers": 1, "visits": [{"layer": 0, "adapter": 4096}]})");
  refused(R"({"layers": 1, "visits": [7]})");
  refused(R"({"layers": 1, "visits": [{"layer": 0, "exit": 1}]})");
  Json many{{"layers", 1}, {"visits", Json(4097, Json{{"layer", 0}})}};
  EXPECT_THROW(plan_from_json(JsonObject(many, "config.json"), 1), Error);
}

}  // namespace
}  // namespace fathom
