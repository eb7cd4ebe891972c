#include "train/top_k.h"

#include <algorithm>
#include <cmath>
#include <utility>

#include "formats/float16.h"
#include "kernels/targets.h"
#include "train/row_parts.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "train/top_k.cpp"
#include <hwy/foreach_target.h>
// After foreach_target, as Highway wants it.
#include <hwy/contrib/math/math-inl.h>

#include "train/rows-inl.h"

HWY_BEFORE_NAMESPACE();
namespace fathom::simd::HWY_NAMESPACE {
namespace {

struct Candidate {
  float logit = 0;
  std::uint32_t id = 0;
};
/// Whether a goes before b: puts the least of a heap's at its front.
bool better(const Candidate& a, const Candidate& b) {
  return a.logit > b.logit || (a.logit == b.logit && a.id < b.id);
}

}  // namespace

void top_rows(std::int64_t rows, std::int64_t vocab, const float* logits, float temperature, std::int64_t k,
              std::uint32_t* ids, std::uint16_t* log_probs) {
  std::vector<Candidate> heap(static_cast<std::size_t>(k));
  for (std::int64_t r = 0; r < rows; ++r, logits += vocab, ids += k, log_probs += k) {
    for (std::int64_t i = 0; i < k; ++i) heap[i] = {logits[i], static_cast<std::uint32_t>(i)};
    std::ranges::make_heap(heap, better);
    // Nearly all vectors hold nothing above the least of the best so far: k (1 + ln(vocab / k)) do, for
    // logits in any order.
    each_vector(static_cast<std::size_t>(vocab - k), [&](std::size_t i, std::size_t n) {
      const float* values = logits + k + i;
      const auto above = hn::Gt(load(values, n), hn::Set(D(), heap.front().logit));
      if (HWY_LIKELY(n == hn::Lanes(D()) && hn::AllFalse(D(), above))) return;
      for (std::size_t lane = 0; lane < n; ++lane) {
        if (!(values[lane] > heap.front().logit)) continue;
        std::ranges::pop_heap(heap, better);
        heap.back() = {values[lane], static_cast<std::uint32_t>(k + static_cast<std::int64_t>(i + lane))};
        std::ranges::push_heap(heap, better);
      }
    });
    std::ranges::sort_heap(heap, better);
    const float factor = 1 / temperature, all = log_sum(logits, vocab, factor);
    for (std::int64_t i = 0; i < k; ++i) {
      ids[i] = heap[i].id;
      log_probs[i] = to_f16(heap[i].logit * factor - all);
    }
  }
}

namespace {

/// One row's teacher and student over the k tokens and the rest.
struct TopRow {
  std::span<const std::uint32_t> ids;
  std::vector<float> log_p, p, logits;  ///< of the k tokens: the teacher's, and the student's logits
  float p_rest = 0;

  explicit TopRow(std::int64_t k) : log_p(k), p(k), logits(k) {}

  void set_teacher(const TopTokens& teacher, std::int64_t row, std::int64_t vocab) {
    ids = std::span(teacher.ids).subspan(static_cast<std::size_t>(row * teacher.k), p.size());
    float sum = 0;
    for (std::size_t i = 0; i < p.size(); ++i) {
      log_p[i] = from_f16(teacher.log_probs[static_cast<std::size_t>(row * teacher.k) + i]);
      sum += p[i] = std::exp(log_p[i]);
    }
    p_rest = std::max(0.0F, 1 - sum);
    if (teacher.k < vocab && p_rest > 0) return;
    // Nothing is left, or what f16 has rounded away.
    p_rest = 0;
    for (float& value : p) value /= sum;
    for (float& value : log_p) value -= std::log(sum);
  }
};

/// Logarithms of the student's sums of e^(logit factor): of the rest, and of all.
struct Sums {
  float rest = nothing, all = 0;
};

Sums sums_of(const float* rest, std::int64_t vocab, const TopRow& top, float factor) {
  const auto k = static_cast<std::int64_t>(top.logits.size());
  const float own = log_sum(top.logits.data(), k, factor);
  if (k == vocab) return {.all = own};
  const float others = log_sum(rest, vocab, factor), most = std::max(own, others);
  return {.rest = others, .all = most + std::log(std::exp(own - most) + std::exp(others - most))};
}

/// Overwrites the row's logits by their gradient; adds to `sums`. `scores` is memory for `vocab` floats.
template <class T>
void row_of(std::int64_t vocab, const LossWeights& weights, T* row, TopRow& top, std::int32_t label,
            float* scores, LossSums& sums) {
  const D d;
  const auto count = static_cast<std::size_t>(vocab);
  const float cap = weights.softcap, factor = 1 / weights.temperature;
  each_vector(count, [&](std::size_t i, std::size_t n) {
    Vector v = load(row + i, n);
    if (cap != 0) v = hn::Mul(hn::Set(d, cap), hn::Tanh(d, hn::Mul(v, hn::Set(d, 1 / cap))));
    store(v, scores + i, n);
  });
  const float label_score = label >= 0 ? scores[label] : 0;
  for (std::size_t i = 0; i < top.ids.size(); ++i) {
    top.logits[i] = std::exchange(scores[top.ids[i]], nothing);
  }
  const Sums hard_sums = sums_of(scores, vocab, top, 1);
  const Sums soft_sums = factor == 1 ? hard_sums : sums_of(scores, vocab, top, factor);
  const float log_q_rest = soft_sums.rest - soft_sums.all, q_rest = std::exp(log_q_rest);

  if (label >= 0) sums.cross_entropy += hard_sums.all - label_score;
  float divergence = top.p_rest > 0 ? top.p_rest * (std::log(top.p_rest) - log_q_rest) : 0;
  for (std::size_t i = 0; i < top.ids.size(); ++i) {
    divergence += top.p[i] * (top.log_p[i] - (top.logits[i] * factor - soft_sums.all));
  }
  sums.divergence += weights.temperature * weights.temperature * divergence;

  const float hard = label >= 0 ? weights.cross_entropy * weights.scale : 0;
  const float soft = weights.divergence * weights.temperature * weights.scale;
  // Both softmaxes are one at temperature 1. Shares of the rest instead of q_j (1 - p_rest / q_rest), whose
  // quotient overflows where the student is sure of the k.
  const bool one = factor == 1;
  const Vector hard_weight = hn::Set(d, hard), hard_all = hn::Set(d, hard_sums.all);
  const Vector soft_rest = hn::Set(d, soft_sums.rest);
  const Vector rest_weight = hn::Set(d, soft * (q_rest - top.p_rest) + (one ? hard * q_rest : 0));
  const auto uncapped = [&](float score) {
    const float ratio = cap != 0 ? score / cap : 0;
    return 1 - ratio * ratio;
  };
  each_vector(count, [&](std::size_t i, std::size_t n) {
    const Vector s = load(scores + i, n);
    Vector slope = hn::Mul(rest_weight, power_of_e(hn::MulSub(s, hn::Set(d, factor), soft_rest)));
    if (!one) slope = hn::MulAdd(hard_weight, power_of_e(hn::Sub(s, hard_all)), slope);
    if (cap != 0) {
      const Vector ratio = hn::Mul(s, hn::Set(d, 1 / cap));
      slope = hn::Mul(slope, hn::NegMulAdd(ratio, ratio, hn::Set(d, 1)));
    }
    store(slope, scores + i, n);
  });
  for (std::size_t i = 0; i < top.ids.size(); ++i) {
    const float s = top.logits[i];
    const float q = std::exp(s * factor - soft_sums.all);
    scores[top.ids[i]] = (hard * std::exp(s - hard_sums.all) + soft * (q - top.p[i])) * uncapped(s);
  }
  if (label >= 0) scores[label] -= hard * uncapped(label_score);
  each_vector(count, [&](std::size_t i, std::size_t n) { store(load(scores + i, n), row + i, n); });
}

}  // namespace

LossSums top_k_loss_rows(std::int64_t begin, std::int64_t end, std::int64_t vocab, const LossWeights& weights,
                         const LogitRows& logits, const TopTokens& teacher, std::int64_t first,
                         const std::int32_t* labels) {
  std::vector<float> scores(static_cast<std::size_t>(vocab));
  TopRow top(teacher.k);
  LossSums sums;
  for (std::int64_t r = begin; r < end; ++r) {
    top.set_teacher(teacher, first + r, vocab);
    const Values row = logits.row(r);
    if (row.bf16)
      row_of(vocab, weights, static_cast<std::uint16_t*>(row.data), top, labels[r], scores.data(), sums);
    else
      row_of(vocab, weights, static_cast<float*>(row.data), top, labels[r], scores.data(), sums);
  }
  return sums;
}

}  // namespace fathom::simd::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace fathom {
namespace simd {
HWY_EXPORT(top_rows);
HWY_EXPORT(top_k_loss_rows);
}  // namespace simd

void TopTokens::append(std::int64_t rows, std::int64_t vocab, const float* logits, float temperature) {
  using namespace simd;
  const std::size_t size = ids.size();
  ids.resize(size + static_cast<std::size_t>(rows * k));
  log_probs.resize(ids.size());
  in_parts(rows, vocab, [&](std::int64_t, std::int64_t begin, std::int64_t end) {
    const auto to = static_cast<std::int64_t>(size) + begin * k;
    HWY_DYNAMIC_DISPATCH(top_rows)
    (end - begin, vocab, logits + begin * vocab, temperature, k, ids.data() + to, log_probs.data() + to);
  });
}

LossSums top_k_loss(std::int64_t rows, std::int64_t vocab, const LossWeights& weights,
                    const LogitRows& logits, const TopTokens& teacher, std::int64_t first,
                    std::span<const std::int32_t> labels) {
  using namespace simd;
  std::vector<LossSums> parts(static_cast<std::size_t>(thread_count()));
  in_parts(rows, vocab, [&](std::int64_t part, std::int64_t begin, std::int64_t end) {
    parts[part] = HWY_DYNAMIC_DISPATCH(top_k_loss_rows)(begin, end, vocab, weights, logits, teacher, first,
                                                        labels.data());
  });
  LossSums total;
  for (const LossSums& part : parts) total += part;
  return total;
}

}  // namespace fathom
#endif  // HWY_ONCE
