#include "runtime/sampler.h"

#include <algorithm>
#include <cmath>
#include <functional>
#include <limits>

#include "base/error.h"

namespace fathom {

Sampler::Sampler(const SamplerOptions& options) : options_(options), random_(options.seed) {
  const auto check = [](bool good, const char* name, double value, const char* expected) {
    if (!good) fail_usage("{} is {}, expected {}", name, value, expected);
  };
  check(options.temperature >= 0 && std::isfinite(options.temperature), "temperature", options.temperature,
        "0 (greedy) or more");
  check(options.top_k >= 0, "top-k", static_cast<double>(options.top_k), "0 (all) or more");
  check(options.top_p > 0 && options.top_p <= 1, "top-p", options.top_p, "more than 0, at most 1");
  check(options.min_p >= 0 && options.min_p <= 1, "min-p", options.min_p, "0 to 1");
  check(options.repetition_penalty > 0 && std::isfinite(options.repetition_penalty), "repetition penalty",
        options.repetition_penalty, "more than 0 (1: none)");
}

void Sampler::penalise(std::span<float> logits, std::span<const Token> seen) const {
  const auto penalty = static_cast<float>(options_.repetition_penalty);
  if (penalty == 1) return;
  std::vector<Token> tokens(seen.begin(), seen.end());
  std::sort(tokens.begin(), tokens.end());
  tokens.erase(std::unique(tokens.begin(), tokens.end()), tokens.end());
  for (const Token token : tokens) {
    if (token < 0 || static_cast<std::size_t>(token) >= logits.size()) continue;
    float& logit = logits[static_cast<std::size_t>(token)];
    logit = logit < 0 ? logit * penalty : logit / penalty;
  }
}

void Sampler::collect(std::span<const float> logits, float largest) {
  float least = -std::numeric_limits<float>::infinity();
  if (const auto k = static_cast<std::size_t>(options_.top_k); k > 0 && k < logits.size()) {
    scratch_.assign(logits.begin(), logits.end());
    const auto kth = scratch_.begin() + static_cast<std::ptrdiff_t>(k - 1);
    std::nth_element(scratch_.begin(), kth, scratch_.end(), std::greater<>());
    least = *kth;
  }
  const auto scale = static_cast<float>(1 / options_.temperature);
  candidates_.clear();
  for (std::size_t i = 0; i < logits.size(); i++) {
    if (logits[i] < least) continue;
    // 0 where the exponent underflows, and also at -infinity; a temperature near 0 leaves the largest alone.
    const float weight = logits[i] == largest ? 1 : std::exp((logits[i] - largest) * scale);
    if (weight > 0) candidates_.push_back({static_cast<Token>(i), weight});
  }
}

/// Keeps the fewest candidates, the heaviest first, whose weights are at least top_p of all. A vocabulary has
/// up to 262k tokens, of which a handful stay: ever larger heads are sorted until one is heavy enough.
void Sampler::keep_top_p() {
  double total = 0;
  for (const Candidate& candidate : candidates_) total += candidate.weight;
  const auto heavier = [](const Candidate& a, const Candidate& b) {
    return a.weight > b.weight || (a.weight == b.weight && a.token < b.token);
  };
  double sum = 0;
  std::size_t kept = 0;
  for (std::size_t sorted = 0; sorted < candidates_.size();) {
    const std::size_t next = std::min(std::max<std::size_t>(128, sorted * 4), candidates_.size());
    const auto from = candidates_.begin() + static_cast<std::ptrdiff_t>(sorted);
    const auto to = candidates_.begin() + static_cast<std::ptrdiff_t>(next);
    std::partial_sort(from, to, candidates_.end(), heavier);
    for (sorted = next; kept < sorted && sum < options_.top_p * total; kept++)
      sum += candidates_[kept].weight;
    if (sum >= options_.top_p * total) break;
  }
  candidates_.resize(kept);
}

Token Sampler::draw() {
  double total = 0;
  for (const Candidate& candidate : candidates_) total += candidate.weight;
  double left = random_.uniform() * total;
  for (const Candidate& candidate : candidates_) {
    left -= candidate.weight;
    if (left < 0) return candidate.token;
  }
  return candidates_.back().token;  // rounding
}

Token Sampler::pick(std::span<float> logits, std::span<const Token> seen) {
  penalise(logits, seen);
  std::size_t best = 0;
  for (std::size_t i = 0; i < logits.size(); i++) {
    if (std::isnan(logits[i]) || logits[i] == std::numeric_limits<float>::infinity())
      fail("the logit of token {} is {}: the model's weights are damaged or overflow; try --dtype f32", i,
           logits[i]);
    if (logits[i] > logits[best]) best = i;
  }
  if (logits.empty() || std::isinf(logits[best]))
    fail("no token has a finite logit: the model's weights are damaged");
  if (options_.temperature == 0) return static_cast<Token>(best);

  collect(logits, logits[best]);
  if (options_.top_p < 1) keep_top_p();
  if (options_.min_p > 0)
    std::erase_if(candidates_,
                  [&](const Candidate& c) { return c.weight < static_cast<float>(options_.min_p); });
  return draw();
}

}  // namespace fathom
