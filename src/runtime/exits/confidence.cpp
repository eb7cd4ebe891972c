// How sure the head is: the probability of the best token, its lead over the second (Schuster et al. 2022,
// arXiv 2207.07061, 3.4), or the distribution's entropy in nats.
#include <algorithm>
#include <cmath>

#include "runtime/exit_rule.h"

namespace fathom {
namespace {

struct Distribution {
  double first = 0, second = 0, entropy = 0;
};

Distribution distribution_of(std::span<const float> logits) {
  float first = -INFINITY, second = -INFINITY;
  for (const float l : logits) {
    second = std::max(second, std::min(first, l));
    first = std::max(first, l);
  }
  // The entropy is log S - (sum e^x x) / S, of x below the largest.
  double sum = 0, weighted = 0;
  for (const float l : logits) {
    const float x = l - first, e = std::exp(x);
    sum += e;
    if (e > 0) weighted += double{e} * x;
  }
  return {1 / sum, std::exp(double{second} - first) / sum, std::log(sum) - weighted / sum};
}

enum class Measure { top1, margin, entropy };

template <Measure measure>
class Confidence : public ExitRule {
 public:
  explicit Confidence(double threshold) : threshold_(threshold) {}
  bool reads_logits() const override { return true; }
  bool leaves(const ExitView& view) const override {
    const Distribution d = distribution_of(view.logits);
    if constexpr (measure == Measure::entropy) return d.entropy <= threshold_;
    return (measure == Measure::top1 ? d.first : d.first - d.second) >= threshold_;
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
const ExitRuleKind top1_exit = {"top1", "the most probable token has at least this probability", 0.9,
                                make<Measure::top1>};
const ExitRuleKind margin_exit = {"margin", "it is by so much more probable than the second", 0.5,
                                  make<Measure::margin>};
const ExitRuleKind entropy_exit = {"entropy", "the next token's entropy is at most so many nats", 1.0,
                                   make<Measure::entropy>};

}  // namespace fathom
