#include "train/model/exits.h"

#include "base/error.h"
#include "depth/prune.h"

namespace fathom {
namespace {

bool is_learned(const ExitOptions& options, std::int64_t visit, std::int64_t depth, std::int64_t step,
                std::int64_t steps) {
  switch (options.curriculum) {
    case ExitCurriculum::all:
      return true;
    case ExitCurriculum::rotational:
      // At step 0 visits R - 1, 2 R - 1, ...; at each step those after them.
      return (visit + 1) % options.rotation == step % options.rotation;
    case ExitCurriculum::gradual:
      break;
  }
  return 2 * depth * step >= (depth - 1 - visit) * steps;
}

double raw_weight(const ExitOptions& options, std::int64_t visit, std::int64_t depth, std::int64_t number) {
  const bool last = visit == depth - 1;
  switch (options.weighting) {
    case ExitWeighting::aggressive:
      return last ? 1 : options.alpha;
    case ExitWeighting::weighted:
      return static_cast<double>(number);
    case ExitWeighting::layerskip:
      break;
  }
  const auto l = static_cast<double>(visit);
  return last ? l + options.scale * l * (l - 1) / 2 : options.scale * l * (l + 1) / 2;
}

}  // namespace

std::vector<ExitWeight> exit_weights(const ExitOptions& options, std::int64_t depth, std::int64_t step,
                                     std::int64_t steps) {
  std::vector<ExitWeight> result;
  double sum = 0;
  std::int64_t number = 0;
  const auto add = [&](std::int64_t visit) {
    const double weight = raw_weight(options, visit, depth, number);
    if (weight == 0 && visit != depth - 1) return;  // the first visit's by layerskip
    result.push_back({visit, weight});
    sum += weight;
  };
  for (const std::int64_t visit : options.visits) {
    ++number;
    if (is_learned(options, visit, depth, step, steps)) add(visit);
  }
  ++number;
  add(depth - 1);
  // A model of one visit has nothing but its last.
  if (options.weighting == ExitWeighting::aggressive || sum == 0) return result;
  for (ExitWeight& exit : result) exit.weight /= sum;
  return result;
}

std::vector<std::int64_t> parse_exits(const std::string& text, const DepthPlan& plan) {
  const std::int64_t last = plan.depth() - 1;
  if (text != "loops" && text != "all" && text != "plan") {
    std::vector<std::int64_t> visits = parse_layers(text, plan.depth());
    if (visits.back() == last) {
      fail_usage("--exits {}: visit {} is the last, where the model ends anyway; leave it out", text, last);
    }
    return visits;
  }
  std::vector<std::int64_t> visits;
  for (std::int64_t visit = 0; visit < last; ++visit) {
    const Visit& own = plan.visits[static_cast<std::size_t>(visit)];
    const Visit& next = plan.visits[static_cast<std::size_t>(visit + 1)];
    if (text == "all" || (text == "plan" ? own.exit : next.layer < own.layer)) visits.push_back(visit);
  }
  if (visits.empty()) {
    fail_usage("--exits {}: the model ({}) has none; name the visits, such as --exits {}", text,
               plan.describe(), last / 2);
  }
  return visits;
}

}  // namespace fathom
