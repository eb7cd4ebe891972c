#include "runtime/lm_head.h"

#include <cmath>

#include "base/error.h"

namespace fathom {

LmHead::LmHead(const ModelConfig& config, const Weights& weights, const Backend& backend)
    : config_(config),
      weights_(weights),
      backend_(backend),
      normed_(row_type(weights)),
      low_rank_(row_type(weights)),
      ones_(static_cast<std::size_t>(config.hidden_size), 1.0F) {}

ConstRows LmHead::normalise(std::int64_t rows, const float* hidden, const std::vector<float>& gain) {
  const Rows to = normed_.rows(rows, config_.hidden_size);
  backend_.rms_norm(rows, config_.hidden_size, hidden, gain.data(), static_cast<float>(config_.norm_eps), to);
  return to;
}

void LmHead::logits(std::int64_t rows, const float* hidden, float* logits) {
  uncapped_logits(rows, hidden, float_rows(logits, config_.vocab_size));
  if (config_.logit_softcap > 0)
    backend_.softcap(rows * config_.vocab_size, static_cast<float>(config_.logit_softcap), logits);
}

void LmHead::uncapped_logits(std::int64_t rows, const float* hidden, Rows logits) {
  backend_.linear(*weights_.head, rows, normalise(rows, hidden, weights_.final_norm), logits);
}

std::vector<RowSummary> LmHead::summarise(std::int64_t rows, const float* hidden, std::span<const Pick> picks,
                                          std::vector<float>& values) {
  return summarise(*weights_.head, rows, hidden, picks, values);
}

std::vector<RowSummary> LmHead::summarise(const PackedLinear& head, std::int64_t rows, const float* hidden,
                                          std::span<const Pick> picks, std::vector<float>& values) {
  std::vector<RowSummary> summaries(static_cast<std::size_t>(rows));
  values.resize(picks.size());
  backend_.summarise(head, rows, normalise(rows, hidden, weights_.final_norm),
                     static_cast<float>(config_.logit_softcap), picks, summaries.data(), values.data());
  for (const RowSummary& summary : summaries)
    if (!std::isfinite(summary.log_sum_exp))
      fail("the model's logits are not finite numbers: a weight is damaged or out of range");
  return summaries;
}

std::vector<RowSummary> LmHead::summarise_shortlist(std::int64_t rows, const float* hidden) {
  std::vector<float> none;
  auto summaries = summarise(*weights_.short_head, rows, hidden, {}, none);
  for (RowSummary& summary : summaries)
    summary.best = weights_.shortlist[static_cast<std::size_t>(summary.best)];
  return summaries;
}

void LmHead::translate(std::int64_t visit, std::int64_t rows, float* hidden) {
  const std::int64_t width = config_.hidden_size;
  if (visit >= std::ssize(weights_.exits)) return;
  const auto& [a, b] = weights_.exits[static_cast<std::size_t>(visit)].translator;
  if (b == nullptr) return;
  const ConstRows normed = normalise(rows, hidden, ones_);
  backend_.rms_norm(rows, width, hidden, ones_.data(), static_cast<float>(config_.norm_eps),
                    float_rows(hidden, width));
  if (a == nullptr) return backend_.linear(*b, rows, normed, hidden, width, true);
  const Rows low_rank = low_rank_.rows(rows, a->out);
  backend_.linear(*a, rows, normed, low_rank);
  backend_.linear(*b, rows, low_rank, hidden, width, true);
}

bool LmHead::has_gate(std::int64_t visit) const {
  return visit < std::ssize(weights_.exits) && !weights_.exits[static_cast<std::size_t>(visit)].gate.empty();
}

double LmHead::gate(std::int64_t visit, std::span<const float> hidden) const {
  const ExitWeights& exit = weights_.exits[static_cast<std::size_t>(visit)];
  double squares = 0, sum = 0;
  for (std::size_t i = 0; i < hidden.size(); ++i) {
    squares += double{hidden[i]} * hidden[i];
    sum += double{hidden[i]} * exit.gate[i];
  }
  const double scale = std::sqrt(squares / static_cast<double>(hidden.size()) + config_.norm_eps);
  return 1 / (1 + std::exp(-(sum / scale + exit.gate_bias)));
}

}  // namespace fathom
