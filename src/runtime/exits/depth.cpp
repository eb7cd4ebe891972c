// Every token at the same depth.
#include "base/error.h"
#include "runtime/exit_rule.h"

namespace fathom {
namespace {

class Depth : public ExitRule {
 public:
  explicit Depth(double visits) : visits_(static_cast<std::int64_t>(visits)) {}

  Exits exits(const DepthPlan& plan) const override {
    if (visits_ < 1 || visits_ >= plan.depth())
      fail_usage("--exit depth:{} leaves after so many visits, expected 1 to {}", visits_, plan.depth() - 1);
    Exits exits(static_cast<std::size_t>(plan.depth()));
    exits[static_cast<std::size_t>(visits_ - 1)] = true;
    return exits;
  }
  bool leaves(const ExitView&) const override { return true; }

 private:
  std::int64_t visits_;
};

}  // namespace

const ExitRuleKind depth_exit = {.name = "depth",
                                 .leaves_when = "it has made so many visits",
                                 .threshold = 0,
                                 .loosest = 0,
                                 .strictest = 0,
                                 .make = make_exit_rule<Depth>};

}  // namespace fathom
