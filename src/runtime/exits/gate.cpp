// What a gate of the model's own says: one vector an exit, which `fathom exits --gate` fits
// (depth/exit_fit.h). The head is asked when a token leaves, and not before.
#include "runtime/exit_rule.h"

namespace fathom {
namespace {

class Gate : public ExitRule {
 public:
  explicit Gate(double probability) : probability_(probability) {}
  bool asks_gate() const override { return true; }
  bool leaves(const ExitView& view) const override { return view.gate >= probability_; }

 private:
  double probability_;
};

}  // namespace

const ExitRuleKind gate_exit = {
    .name = "gate",
    .leaves_when = "the exit's gate is so sure that full depth would choose the same (fathom exits --gate)",
    .threshold = 0.8,
    .loosest = 0,
    .strictest = 1,
    .make = make_exit_rule<Gate>};

}  // namespace fathom
