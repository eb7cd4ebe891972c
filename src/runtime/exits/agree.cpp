// The most probable token has been the same at some exits in a row.
#include <algorithm>

#include "runtime/exit_rule.h"

namespace fathom {
namespace {

class Agree : public ExitRule {
 public:
  explicit Agree(double exits) : exits_(std::max<std::size_t>(1, static_cast<std::size_t>(exits))) {}
  bool asks_head() const override { return true; }
  bool leaves(const ExitView& view) const override {
    const auto same = [&](const RowSummary& head) { return head.best == view.heads.back().best; };
    return view.heads.size() >= exits_ && std::ranges::all_of(view.heads.last(exits_), same);
  }

 private:
  std::size_t exits_;
};

}  // namespace

const ExitRuleKind agree_exit = {.name = "agree",
                                 .leaves_when = "the most probable token has been the same at so many exits",
                                 .threshold = 2,
                                 .loosest = 0,
                                 .strictest = 0,
                                 .make = make_exit_rule<Agree>};

}  // namespace fathom
