// How little the hidden state has changed since the exit before: without the head, whatever the vocabulary.
#include <cmath>

#include "runtime/exit_rule.h"

namespace fathom {
namespace {

// |a - b| / |b|, and the cosine of the angle between them.
struct Change {
  double relative = 0, cosine = 0;
};

Change change_of(std::span<const float> a, std::span<const float> b) {
  double difference = 0, dot = 0, of_a = 0, of_b = 0;
  for (std::size_t i = 0; i < a.size(); ++i) {
    const double x = a[i], y = b[i];
    difference += (x - y) * (x - y);
    dot += x * y;
    of_a += x * x;
    of_b += y * y;
  }
  return {std::sqrt(difference / of_b), dot / std::sqrt(of_a * of_b)};
}

template <bool by_angle>
class LittleChange : public ExitRule {
 public:
  explicit LittleChange(double threshold) : threshold_(threshold) {}
  bool leaves(const ExitView& view) const override {
    if (view.before.empty()) return false;
    const Change change = change_of(view.hidden, view.before);
    return by_angle ? change.cosine >= threshold_ : change.relative <= threshold_;
  }

 private:
  double threshold_;
};

}  // namespace

const ExitRuleKind cosine_exit = {
    .name = "cosine",
    .leaves_when = "the hidden state's cosine with that at the exit before is at least this",
    .threshold = 0.99,
    .loosest = 0,
    .strictest = 1,
    .make = make_exit_rule<LittleChange<true>>};
const ExitRuleKind change_exit = {
    .name = "change",
    .leaves_when = "the hidden state has changed by at most this part since the exit before",
    .threshold = 0.03,
    .loosest = 2,
    .strictest = 0,
    .make = make_exit_rule<LittleChange<false>>};

}  // namespace fathom
