#include "model/depth_plan.h"

#include <algorithm>

#include "base/error.h"

namespace fathom {
namespace {

constexpr std::int64_t most_layers = 4096;
constexpr std::int64_t most_visits = 4096;

/// The visited layers come as runs of the same length of each other: 0,0,1,1,... (the middle variants keep
/// single visits at both ends). Cycle: the whole order repeats.
std::string order_name(const DepthPlan& plan) {
  bool ascending = true;
  for (std::size_t i = 1; i < plan.visits.size(); i++)
    ascending = ascending && plan.visits[i].layer >= plan.visits[i - 1].layer;
  return ascending ? "sequence" : "cycle";
}

}  // namespace

bool DepthPlan::is_plain() const {
  if (depth() != layers) return false;
  for (std::int64_t i = 0; i < depth(); i++) {
    const Visit& visit = visits[static_cast<std::size_t>(i)];
    if (visit.layer != i || visit.adapter >= 0) return false;
  }
  return true;
}

bool DepthPlan::is_recursive() const {
  std::vector<bool> seen(static_cast<std::size_t>(layers), false);
  for (const Visit& visit : visits) {
    const auto layer = static_cast<std::size_t>(visit.layer);
    if (seen[layer]) return true;
    seen[layer] = true;
  }
  return false;
}

std::int64_t DepthPlan::adapters() const {
  std::int64_t count = 0;
  for (const Visit& visit : visits) count = std::max(count, visit.adapter + 1);
  return count;
}

std::string DepthPlan::describe() const {
  const auto plural = [](std::int64_t count, const char* noun) {
    return fmt::format("{} {}{}", count, noun, count == 1 ? "" : "s");
  };
  std::vector<std::int64_t> times(static_cast<std::size_t>(layers), 0);
  for (const Visit& visit : visits) times[static_cast<std::size_t>(visit.layer)]++;
  std::string text = plural(layers, "layer");
  const std::int64_t most = times.empty() ? 0 : *std::max_element(times.begin(), times.end());
  const std::int64_t least = times.empty() ? 0 : *std::min_element(times.begin(), times.end());
  if (least == most && most > 1) {
    text += fmt::format(" × {} ({})", most, order_name(*this));
  } else if (is_recursive()) {
    const bool middle =
        times.front() == 1 && times.back() == 1 && layers > 2 &&
        std::all_of(times.begin() + 1, times.end() - 1, [&](std::int64_t count) { return count == most; });
    if (middle) {
      text = fmt::format("1 + {} × {} + 1 layers (middle-{})", layers - 2, most, order_name(*this));
    } else {
      text += fmt::format(", {}", plural(depth(), "visit"));
    }
  } else if (depth() < layers) {
    text = fmt::format("{} of {}", depth(), plural(layers, "layer"));
  } else if (!std::is_sorted(visits.begin(), visits.end(),
                             [](const Visit& a, const Visit& b) { return a.layer < b.layer; })) {
    text += " in another order";
  }
  if (adapters() > 0) text += ", " + plural(adapters(), "adapter");
  const auto exits = std::count_if(visits.begin(), visits.end(), [](const Visit& v) { return v.exit; });
  if (exits > 0) text += ", " + plural(exits, "exit");
  return text;
}

DepthPlan plain_plan(const std::vector<std::int64_t>& types) {
  DepthPlan plan;
  plan.layers = static_cast<std::int64_t>(types.size());
  for (std::int64_t i = 0; i < plan.layers; i++)
    plan.visits.push_back({.layer = i, .adapter = -1, .type = types[static_cast<std::size_t>(i)]});
  return plan;
}

Json to_json(const DepthPlan& plan) {
  Json visits = Json::array();
  for (const Visit& visit : plan.visits) {
    Json entry{{"layer", visit.layer}};
    if (visit.adapter >= 0) entry["adapter"] = visit.adapter;
    if (visit.type != 0) entry["type"] = visit.type;
    if (visit.exit) entry["exit"] = true;
    visits.push_back(std::move(entry));
  }
  return {{"layers", plan.layers}, {"visits", std::move(visits)}};
}

DepthPlan plan_from_json(const JsonObject& json, std::int64_t attention_types) {
  DepthPlan plan;
  plan.layers = json.integer("layers", 1, most_layers);
  if (json.array("visits", most_visits).empty())
    fail("{} is empty, expected at least one visit", json.field("visits"));
  for (const JsonObject& entry : json.objects("visits")) {
    Visit visit;
    visit.layer = entry.integer("layer", 0, plan.layers - 1);
    visit.adapter = entry.integer_or("adapter", -1, -1, most_visits - 1);
    visit.type = entry.integer_or("type", 0, 0, attention_types - 1);
    visit.exit = entry.boolean_or("exit", false);
    plan.visits.push_back(visit);
  }
  return plan;
}

}  // namespace fathom
