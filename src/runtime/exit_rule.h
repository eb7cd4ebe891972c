// When a token may leave: rules by name, each in a file of its own in exits/.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "model/depth_plan.h"
#include "runtime/engine.h"
#include "text/tokenizer.h"

namespace fathom {

/// A token at an exit, as a rule sees it.
struct ExitView {
  std::int64_t visit = 0;         ///< the last one that it made
  std::span<const float> hidden;  ///< the residual stream there
  std::span<const float> before;  ///< the same at the exit before; none at the first
  /// What the head says at each exit up to this one; none unless the rule asks it.
  std::span<const RowSummary> heads;
  double gate = 0;        ///< what the exit's gate says (Engine::gate); 0 unless the rule asks it
  Token full_depth = -1;  ///< what full depth would choose; -1 unless the rule asks that
};

class ExitRule {
 public:
  virtual ~ExitRule() = default;
  /// Whether it asks the head at every exit: where the vocabulary is large that costs as much as many layers.
  virtual bool asks_head() const { return false; }
  /// Whether it asks the gates that the model's exits have: a product with one vector each.
  virtual bool asks_gate() const { return false; }
  /// Whether it asks what full depth would choose: for analysis alone.
  virtual bool asks_full_depth() const { return false; }
  /// Where it is asked: the exits that the plan marks, unless it knows better.
  virtual Exits exits(const DepthPlan& plan) const;
  virtual bool leaves(const ExitView& view) const = 0;
};

/// A rule's name, what its threshold means, and how it is made from one. To add a rule: a file in exits/
/// with a class and a constant of this type, which is declared below and listed in exit_rule.cpp.
struct ExitRuleKind {
  std::string_view name;
  std::string_view leaves_when;  ///< "the most probable token has at least this probability"
  double threshold;              ///< where none is given
  double loosest, strictest;     ///< ends of its range; equal where it has none
  std::unique_ptr<ExitRule> (*make)(double threshold);
};
extern const ExitRuleKind depth_exit, top1_exit, margin_exit, entropy_exit, cosine_exit, change_exit,
    agree_exit, gate_exit, oracle_exit;
std::span<const ExitRuleKind* const> exit_rule_kinds();

/// ExitRuleKind::make of a class that a threshold makes.
template <typename Rule>
std::unique_ptr<ExitRule> make_exit_rule(double threshold) {
  return std::make_unique<Rule>(threshold);
}

/// The rule that "NAME" or "NAME:THRESHOLD" names. Throws UsageError for others, and where the rule would
/// never be asked by this plan.
std::shared_ptr<const ExitRule> parse_exit_rule(const std::string& text, const DepthPlan& plan);

}  // namespace fathom
