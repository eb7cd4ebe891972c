#include "train/ops/head_loss.h"

#include <ATen/core/grad_mode.h>

#include <algorithm>
#include <limits>
#include <numbers>

namespace fathom {
namespace {

// Logits of a chunk: 100 MB in bfloat16, 200 MB of float32 for the teacher. The head's weight and its
// gradient (113 MB for SmolLM2) come by once a chunk: 1,024 rows make that a tenth of what the products take.
constexpr std::int64_t chunk_logits = 50'400'000;

std::int64_t chunk_rows(std::int64_t rows, std::int64_t vocab) {
  return std::clamp<std::int64_t>(chunk_logits / vocab, 1, rows);
}

/// Of scores [rows, vocab], as a float64 sum over rows; a label below 0 is left out.
at::Tensor cross_entropy(const at::Tensor& scores, std::span<const std::int32_t> labels) {
  const at::Tensor targets =
      at::from_blob(const_cast<std::int32_t*>(labels.data()), {scores.size(0)}, at::kInt)
          .to(scores.device(), at::kLong)
          .clamp_min(-1);
  return at::nll_loss(scores.log_softmax(1), targets, {}, at::Reduction::None, /*ignore_index=*/-1)
      .sum(at::kDouble);
}

at::Tensor divergence_of_entries(Divergence kind, const at::Tensor& log_q, const at::Tensor& log_p) {
  switch (kind) {
    case Divergence::forward_kl:
      return log_p.exp() * (log_p - log_q);
    case Divergence::reverse_kl:
      return log_q.exp() * (log_q - log_p);
    case Divergence::jensen_shannon: {
      const at::Tensor log_m = at::logaddexp(log_q, log_p) - std::numbers::ln2;
      return (log_p.exp() * (log_p - log_m) + log_q.exp() * (log_q - log_m)) / 2;
    }
    case Divergence::total_variation:
      break;
  }
  return (log_p.exp() - log_q.exp()).abs() / 2;
}

at::Tensor divergence(const LossWeights& weights, const at::Tensor& scores, const at::Tensor& teacher) {
  const double t = weights.temperature;
  const at::Tensor log_q = (scores / t).log_softmax(1), log_p = (teacher / t).log_softmax(1);
  const double size = weights.kind == Divergence::total_variation ? t : t * t;
  return divergence_of_entries(weights.kind, log_q, log_p).sum(1).sum(at::kDouble) * size;
}

/// Over the k tokens and the rest (top_k.h).
at::Tensor top_k_divergence(const LossWeights& weights, const at::Tensor& scores, const TopTokens& teacher,
                            std::int64_t first) {
  const std::int64_t rows = scores.size(0), k = teacher.k;
  const auto of_rows = [&](const auto& values, at::ScalarType in, at::ScalarType type) {
    return at::from_blob(const_cast<void*>(static_cast<const void*>(values.data() + first * k)), {rows, k},
                         in)
        .to(scores.device(), type);
  };
  const at::Tensor ids = of_rows(teacher.ids, at::kInt, at::kLong);
  at::Tensor log_p = of_rows(teacher.log_probs, at::kHalf, at::kFloat);
  const at::Tensor sum = log_p.exp().sum(1, /*keepdim=*/true);
  at::Tensor rest = (1 - sum).clamp_min(0);
  if (k == scores.size(1)) rest.zero_();
  // Nothing is left in a row, or what f16 has rounded away.
  log_p = log_p - at::where(rest > 0, at::zeros_like(sum), sum.log());
  const double t = weights.temperature;
  const at::Tensor log_q = (scores / t).log_softmax(1);
  at::Tensor result = (log_p.exp() * (log_p - log_q.gather(1, ids))).sum(1);
  if (k < scores.size(1)) {
    rest = rest.squeeze(1);
    const at::Tensor log_rest = log_q.scatter(1, ids, -std::numeric_limits<float>::infinity()).logsumexp(1);
    result = result + at::xlogy(rest, rest) - rest * log_rest;
  }
  return result.sum(at::kDouble) * (t * t);
}

/// The losses' sums; overwrites logits by the gradient of both together, by torch's autograd.
LossSums learned(const LossWeights& weights, const at::Tensor& logits, std::span<const std::int32_t> labels,
                 const std::function<at::Tensor(const at::Tensor& scores)>& divergence_of) {
  const at::AutoGradMode with_gradients(true);
  const at::Tensor z = logits.detach().to(at::kFloat).set_requires_grad(true);
  const double cap = weights.softcap;
  const at::Tensor scores = cap != 0 ? (z / cap).tanh() * cap : z;
  const at::Tensor ce = cross_entropy(scores, labels);
  const at::Tensor divergence = weights.divergence != 0 ? divergence_of(scores) : at::zeros_like(ce);
  const double scale = weights.scale;
  (ce * (scale * weights.cross_entropy) + divergence * (scale * weights.divergence)).backward();
  logits.detach().copy_(z.grad());
  return {ce.item<double>(), divergence.item<double>()};
}

}  // namespace

at::Tensor Head::logits_memory(std::int64_t rows, const at::Tensor& x) {
  return at::empty({rows, vocab()}, x.options());
}

void Head::logits(const at::Tensor& x, const at::Tensor& logits) {
  const at::Tensor turned = weight_->values.to(x.scalar_type()).t();
  at::Tensor(logits).copy_(logits.scalar_type() == at::kFloat ? float_product(x, turned) : x.mm(turned));
}

void Head::backward(const at::Tensor& x, const at::Tensor& d, at::Tensor& dx) {
  at::mm_out(dx, d, weight_->values.to(x.scalar_type()));
  if (weight_->trainable()) add_product(weight_->gradient_sum(), d.t(), x);
}

LossSums Head::vocabulary_loss(const LossWeights& weights, const at::Tensor& logits,
                               const at::Tensor& teacher, std::span<const std::int32_t> labels) const {
  return learned(weights, logits, labels, [&](const at::Tensor& scores) {
    return divergence(weights, scores, teacher.to(at::kFloat));
  });
}

LossSums Head::top_k_loss(const LossWeights& weights, const at::Tensor& logits, const TopTokens& teacher,
                          std::int64_t first, std::span<const std::int32_t> labels) const {
  return learned(weights, logits, labels,
                 [&](const at::Tensor& scores) { return top_k_divergence(weights, scores, teacher, first); });
}

at::Tensor rows_in(at::Tensor& memory, std::int64_t rows, std::int64_t width, at::Device device) {
  if (!memory.defined() || memory.size(0) < rows) {
    memory = at::empty({rows, width}, at::device(device).dtype(at::kFloat));
  }
  return memory.narrow(0, 0, rows);
}

TeacherLogits head_logits(Head& head, const at::Tensor& hidden, float softcap) {
  return [&head, hidden, softcap, memory = at::Tensor()](std::int64_t first, std::int64_t rows) mutable {
    at::Tensor logits = rows_in(memory, rows, head.vocab(), hidden.device());
    head.logits(hidden.narrow(0, first, rows), logits);
    if (softcap != 0) logits.div_(softcap).tanh_().mul_(softcap);
    return logits;
  };
}

LossSums head_loss(const at::Tensor& hidden, Head& head, const LogitsLoss& loss,
                   at::Tensor& hidden_gradient) {
  const at::NoGradGuard no_grad;
  const std::int64_t rows = hidden.size(0), chunk = chunk_rows(rows, head.vocab());
  hidden_gradient = at::empty_like(hidden);
  const at::Tensor all_logits = head.logits_memory(chunk, hidden);
  LossSums sums;
  for (std::int64_t first = 0; first < rows; first += chunk) {
    const std::int64_t count = std::min(chunk, rows - first);
    const at::Tensor inputs = hidden.narrow(0, first, count);
    const at::Tensor logits = all_logits.narrow(0, 0, count);
    head.logits(inputs, logits);
    sums += loss(first, logits);
    at::Tensor gradient = hidden_gradient.narrow(0, first, count);
    head.backward(inputs, logits, gradient);
  }
  return sums;
}

LossSums head_loss(const at::Tensor& hidden, Head& head, std::span<const std::int32_t> labels,
                   const LossWeights& weights, const TeacherLogits& teacher, at::Tensor& hidden_gradient) {
  const auto loss = [&](std::int64_t first, const at::Tensor& logits) {
    const std::int64_t count = logits.size(0);
    const at::Tensor target = weights.divergence != 0 ? teacher(first, count) : at::Tensor();
    return head.vocabulary_loss(weights, logits, target, labels.subspan(first, count));
  };
  return head_loss(hidden, head, loss, hidden_gradient);
}

}  // namespace fathom
