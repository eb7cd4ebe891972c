#include "runtime/exit_rule.h"

#include <fmt/ranges.h>

#include <algorithm>
#include <array>
#include <charconv>

#include "base/error.h"

namespace fathom {

namespace {

constexpr std::array<const ExitRuleKind*, 9> kinds = {&depth_exit,   &top1_exit,   &margin_exit,
                                                      &entropy_exit, &cosine_exit, &change_exit,
                                                      &agree_exit,   &gate_exit,   &oracle_exit};

std::string names() {
  std::vector<std::string_view> all;
  for (const ExitRuleKind* kind : kinds) all.push_back(kind->name);
  return fmt::format("{}", fmt::join(all, ", "));
}

}  // namespace

std::span<const ExitRuleKind* const> exit_rule_kinds() { return kinds; }

Exits ExitRule::exits(const DepthPlan& plan) const {
  Exits exits(static_cast<std::size_t>(plan.depth()));
  for (std::size_t v = 0; v + 1 < exits.size(); ++v) exits[v] = plan.visits[v].exit;
  return exits;
}

std::shared_ptr<const ExitRule> parse_exit_rule(const std::string& text, const DepthPlan& plan) {
  const std::size_t colon = text.find(':');
  const auto kind = std::ranges::find(kinds, std::string_view(text).substr(0, colon), &ExitRuleKind::name);
  if (kind == kinds.end()) fail_usage("--exit is '{}', expected one of {}, as in top1:0.9", text, names());
  double threshold = (*kind)->threshold;
  if (colon != std::string::npos) {
    const char *begin = text.data() + colon + 1, *end = text.data() + text.size();
    const auto [rest, error] = std::from_chars(begin, end, threshold);
    constexpr double most = 1e6;
    if (error != std::errc() || rest != end || !(threshold >= 0 && threshold <= most))
      fail_usage("--exit is '{}', expected a number of 0 to {} behind the colon", text, most);
  }
  std::shared_ptr<const ExitRule> rule = (*kind)->make(threshold);
  const Exits exits = rule->exits(plan);
  if (std::ranges::find(exits, true) == exits.end())
    fail_usage(
        "--exit {} would never be asked: the model marks no exits. `fathom exits --at VISITS` fits some "
        "without "
        "training, `fathom train --exits` trains them; or leave at one depth with --exit depth:VISIT (the "
        "first "
        "is 1, the last but one {})",
        text, plan.depth() - 1);
  return rule;
}

}  // namespace fathom
