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

template <Measure measure>
std::unique_ptr<ExitRule> make(double threshold) {
  return std::make_unique<Confidence<measure>>(threshold);
}

}  // namespace

extern const ExitRuleKind top1_exit, margin_exit, entropy_exit;
const ExitRuleKind top1_exit = {
    "top1", "the most probable token has at least this probability", 0.9, 0, 1, make<Measure::top1>};
const ExitRuleKind margin_exit = {
    "margin", "it is by so much more probable than the second", 0.5, 0, 1, make<Measure::margin>};
const ExitRuleKind entropy_exit = {
    "entropy", "the next token's entropy is at most so many nats", 1.0, 12, 0, make<Measure::entropy>};

}  // namespace fathom
