#include "train/step/top_k.h"

#include <algorithm>
#include <cmath>
#include <utility>

#include "formats/float16.h"
#include "kernels/targets.h"
#include "train/kernels/row_parts.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "train/step/top_k.cpp"
#include <hwy/foreach_target.h>
// After foreach_target, as Highway wants it.
#include "train/kernels/rows-inl.h"

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

/// One row's scores and what becomes of them, padded.
struct StudentRow {
  std::vector<float> scores, soft, sharp;  ///< `sharp` at temperatures other than 1

  StudentRow(std::int64_t vocab, bool one)
      : scores(padded(vocab)), soft(padded(vocab)), sharp(one ? 0 : padded(vocab)) {}
};

/// The student's softmax at one temperature: the entries of the rest are e^(score factor - rest.top), and
/// the logarithms of the sums of the rest and of all.
struct StudentSoftmax {
  float factor;
  Exponentials rest;
  float log_rest = nothing, log_all = 0;

  StudentSoftmax(const TopRow& top, const std::vector<float>& scores, std::int64_t vocab, float scale,
                 std::vector<float>& to)
      : factor(scale), rest(exponentials(scores.data(), vocab, scale, to.data())) {
    const auto k = static_cast<std::int64_t>(top.logits.size());
    log_all = log_sum(top.logits.data(), k, factor);
    if (k == vocab) return;
    log_rest = rest.log_sum();
    const float most = std::max(log_all, log_rest);
    log_all = most + std::log(std::exp(log_all - most) + std::exp(log_rest - most));
  }

  float log_probability(float score) const { return score * factor - log_all; }
  float rest_probability() const { return std::exp(log_rest - log_all); }
};

/// Overwrites the row's logits by their gradient; adds to `sums`.
void row_of(std::int64_t vocab, const LossWeights& weights, Values logits, TopRow& top, std::int32_t label,
            StudentRow& row, LossSums& sums) {
  const D d;
  const auto lanes = static_cast<std::int64_t>(hn::Lanes(d));
  const float cap = weights.softcap, factor = 1 / weights.temperature;
  const bool one = factor == 1;  // both softmaxes are
  std::vector<float>& scores = row.scores;
  load_row(logits, 0, vocab, nothing, scores.data());
  if (cap != 0) cap_row(scores.data(), vocab, cap);
  const float label_score = label >= 0 ? scores[label] : 0;
  for (std::size_t i = 0; i < top.ids.size(); ++i) {
    top.logits[i] = std::exchange(scores[top.ids[i]], nothing);
  }
  const StudentSoftmax soft(top, scores, vocab, factor, row.soft);
  const StudentSoftmax hard = one ? soft : StudentSoftmax(top, scores, vocab, 1, row.sharp);

  if (label >= 0) sums.cross_entropy -= hard.log_probability(label_score);
  float divergence =
      top.p_rest > 0 ? top.p_rest * (std::log(top.p_rest) - (soft.log_rest - soft.log_all)) : 0;
  for (std::size_t i = 0; i < top.ids.size(); ++i) {
    divergence += top.p[i] * (top.log_p[i] - soft.log_probability(top.logits[i]));
  }
  sums.divergence += weights.temperature * weights.temperature * divergence;

  const float hard_weight = label >= 0 ? weights.cross_entropy * weights.scale : 0;
  const float soft_weight = weights.divergence * weights.temperature * weights.scale;
  // Shares of the rest instead of q_j (1 - p_rest / q_rest), whose quotient overflows where the student is
  // sure of the k.
  const float of_rest = soft_weight * (soft.rest_probability() - top.p_rest),
              hard_of_rest = hard_weight * hard.rest_probability();
  const Vector soft_share = hn::Set(d, (of_rest + (one ? hard_of_rest : 0)) / soft.rest.sum);
  const Vector hard_share = hn::Set(d, hard_of_rest / hard.rest.sum);
  const auto uncapped = [&](float score) {
    const float ratio = cap != 0 ? score / cap : 0;
    return 1 - ratio * ratio;
  };
  std::vector<float>& slopes = row.soft;
  for (std::int64_t i = 0; i < padded(vocab); i += lanes) {
    Vector slope = hn::Mul(hn::LoadU(d, &row.soft[i]), soft_share);
    if (!one) slope = hn::MulAdd(hn::LoadU(d, &row.sharp[i]), hard_share, slope);
    if (cap != 0) {
      const Vector ratio = hn::Mul(hn::LoadU(d, &scores[i]), hn::Set(d, 1 / cap));
      slope = hn::Mul(slope, hn::NegMulAdd(ratio, ratio, hn::Set(d, 1)));
    }
    hn::StoreU(slope, d, &slopes[i]);
  }
  for (std::size_t i = 0; i < top.ids.size(); ++i) {
    const float s = top.logits[i];
    slopes[top.ids[i]] = (hard_weight * std::exp(hard.log_probability(s)) +
                          soft_weight * (std::exp(soft.log_probability(s)) - top.p[i])) *
                         uncapped(s);
  }
  if (label >= 0) slopes[label] -= hard_weight * uncapped(label_score);
  store_row(slopes.data(), 0, vocab, false, logits);
}

}  // namespace

LossSums top_k_loss_rows(std::int64_t begin, std::int64_t end, std::int64_t vocab, const LossWeights& weights,
                         const LogitRows& logits, const TopTokens& teacher, std::int64_t first,
                         const std::int32_t* labels) {
  StudentRow row(vocab, weights.temperature == 1);
  TopRow top(teacher.k);
  LossSums sums;
  for (std::int64_t r = begin; r < end; ++r) {
    top.set_teacher(teacher, first + r, vocab);
    row_of(vocab, weights, logits.row(r), top, labels[r], row, sums);
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
