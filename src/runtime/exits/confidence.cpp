// How sure the head is: the probability of the best token, its lead over the second (Schuster et al. 2022,
// arXiv 2207.07061, 3.4), or the distribution's entropy in nats.
#include <cmath>

#include "runtime/exit_rule.h"

namespace fathom {
namespace {

enum class Measure { top1, margin, entropy };

template <Measure measure>
class Confidence : public ExitRule {
 public:
  explicit Confidence(double threshold) : threshold_(threshold) {}
  bool asks_head() const override { return true; }
  bool leaves(const ExitView& view) const override {
    const RowSummary& head = view.heads.back();
    const auto probability = [&](float logit) { return std::exp(logit - head.log_sum_exp); };
    if constexpr (measure == Measure::entropy) return head.entropy <= threshold_;
    if constexpr (measure == Measure::top1) return probability(head.largest) >= threshold_;
    return probability(head.largest) - probability(head.second) >= threshold_;
  }

 private:
  double threshold_;
};

}  // namespace

const ExitRuleKind top1_exit = {.name = "top1",
                                .leaves_when = "the most probable token has at least this probability",
                                .threshold = 0.9,
                                .loosest = 0,
                                .strictest = 1,
                                .make = make_exit_rule<Confidence<Measure::top1>>};
const ExitRuleKind margin_exit = {.name = "margin",
                                  .leaves_when = "it is by so much more probable than the second",
                                  .threshold = 0.5,
                                  .loosest = 0,
                                  .strictest = 1,
                                  .make = make_exit_rule<Confidence<Measure::margin>>};
const ExitRuleKind entropy_exit = {.name = "entropy",
                                   .leaves_when = "the next token's entropy is at most so many nats",
                                   .threshold = 1.0,
                                   .loosest = 12,
                                   .strictest = 0,
                                   .make = make_exit_rule<Confidence<Measure::entropy>>};

}  // namespace fathom
