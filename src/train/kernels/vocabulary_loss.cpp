#include "train/kernels/vocabulary_loss.h"

#include <algorithm>
#include <cmath>
#include <numbers>
#include <vector>

#include "kernels/targets.h"
#include "train/kernels/row_parts.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "train/kernels/vocabulary_loss.cpp"
#include <hwy/foreach_target.h>
// After foreach_target, as Highway wants it.
#include "train/kernels/rows-inl.h"

HWY_BEFORE_NAMESPACE();
namespace fathom::simd::HWY_NAMESPACE {
namespace {

/// What an entry of the vocabulary adds to the divergence D, and its q dD/dq: by the softmax's derivative
/// dD/dlogit = slope - q sum(slope). (A constant in dD/dq cancels and is left out.)
struct Entry {
  Vector value, slope;
};

template <Divergence kind>
HWY_INLINE Entry entry(Vector q, Vector log_q, Vector log_p) {
  const D d;
  const auto half = hn::Set(d, 0.5F);
  const auto ahead = hn::Sub(log_p, log_q);
  if constexpr (kind == Divergence::forward_kl) {
    const auto p = hn::Exp(d, log_p);
    return {hn::Mul(p, ahead), hn::Neg(p)};
  } else if constexpr (kind == Divergence::reverse_kl) {
    const auto both = hn::NegMulAdd(q, ahead, hn::Zero(d));
    return {both, both};
  } else if constexpr (kind == Divergence::jensen_shannon) {
    // log(q / m) = log 2 - log(1 + p / q), where p / q may be beyond any float: by its larger term.
    const auto more = hn::Log1p(d, hn::Exp(d, hn::Neg(hn::Abs(ahead))));
    const auto log_two = hn::Set(d, std::numbers::ln2_v<float>);
    const auto own = hn::Sub(log_two, hn::Add(hn::Max(ahead, hn::Zero(d)), more));
    const auto slope = hn::Mul(half, hn::Mul(q, own));
    return {hn::MulAdd(hn::Mul(half, hn::Exp(d, log_p)), hn::Add(own, ahead), slope), slope};
  } else {
    const auto more = hn::Sub(q, hn::Exp(d, log_p));
    const auto slope = hn::CopySign(hn::Mul(half, q), more);
    return {hn::Mul(half, hn::Abs(more)), hn::IfThenElseZero(hn::Ne(more, hn::Zero(d)), slope)};
  }
}

/// Logits whose softmax at this temperature is exp(logit * factor - lse).
struct Softmax {
  const float* logits;
  float lse;
};

struct EntrySums {
  float value, slope;
};

/// Of padded rows.
template <Divergence kind>
EntrySums entry_sums(const Softmax& student, const Softmax& teacher, std::int64_t width, float factor) {
  const D d;
  const auto lanes = static_cast<std::int64_t>(hn::Lanes(d));
  const auto scale = hn::Set(d, factor), own = hn::Set(d, student.lse), other = hn::Set(d, teacher.lse);
  LongSum value, slope;
  for (std::int64_t i = 0; i < padded(width); i += lanes) {
    const auto log_p = hn::MulSub(hn::LoadU(d, teacher.logits + i), scale, other);
    const auto log_q = hn::MulSub(hn::LoadU(d, student.logits + i), scale, own);
    const Entry more = entry<kind>(hn::Exp(d, log_q), log_q, log_p);
    value.add(more.value);
    slope.add(more.slope);
  }
  // The forward divergence's slopes are -p, whose sum is known.
  return {value.value(), kind == Divergence::forward_kl ? -1 : slope.value()};
}

/// Cross-entropy and the forward divergence, of scores as they are: since D = sum p (t - s) + log_sum(s) -
/// log_sum(t), and the gradient is (hard + soft) q - soft p - hard one-hot, one exponential an entry of each
/// distribution is enough.
LossSums usual_loss_part(std::int64_t first, std::int64_t last, std::int64_t vocab,
                         const LossWeights& weights, const LogitRows& all_logits, const LogitRows& teacher,
                         const std::int32_t* labels) {
  const D d;
  const auto lanes = static_cast<std::int64_t>(hn::Lanes(d));
  const bool distil = weights.divergence != 0;
  std::vector<float> student(padded(vocab)), target(distil ? padded(vocab) : 0);
  const float soft = weights.divergence * weights.scale;
  LossSums sums;
  for (std::int64_t r = first; r < last; ++r) {
    const Values logits = all_logits.row(r);
    load_row(logits, 0, vocab, nothing, student.data());
    const bool labelled = labels[r] >= 0;
    const float label_logit = labelled ? student[labels[r]] : 0;
    const float hard = labelled ? weights.cross_entropy * weights.scale : 0;
    Exponentials p{0, 1};
    LongSum ahead;
    if (distil) {
      load_row(teacher.row(r), 0, vocab, nothing, target.data());
      p = exponentials(target.data(), vocab, 1, target.data(), [&](std::int64_t i, Vector t, Vector e) {
        ahead.add(hn::Mul(e, hn::Sub(t, hn::LoadU(d, &student[i]))));
      });
    }
    const Exponentials q = exponentials(student.data(), vocab, 1, student.data());
    if (labelled) sums.cross_entropy += q.log_sum() - label_logit;
    if (distil) {
      sums.divergence += ahead.value() / p.sum + (q.top - p.top) + std::log(q.sum / p.sum);
    }
    // The label's part of the gradient, as a share of the softmax's.
    if (hard != 0) student[labels[r]] -= hard / (hard + soft) * q.sum;
    const auto own_share = hn::Set(d, (hard + soft) / q.sum), other_share = hn::Set(d, soft / p.sum);
    for (std::int64_t i = 0; i < padded(vocab); i += lanes) {
      auto slope = hn::Mul(hn::LoadU(d, &student[i]), own_share);
      if (distil) slope = hn::NegMulAdd(hn::LoadU(d, &target[i]), other_share, slope);
      hn::StoreU(slope, d, &student[i]);
    }
    store_row(student.data(), 0, vocab, false, logits);
  }
  return sums;
}

template <Divergence kind>
LossSums loss_part(std::int64_t first, std::int64_t last, std::int64_t vocab, const LossWeights& weights,
                   const LogitRows& all_logits, const LogitRows& teacher, const std::int32_t* labels) {
  const D d;
  const auto lanes = static_cast<std::int64_t>(hn::Lanes(d));
  const bool distil = weights.divergence != 0;
  std::vector<float> student(padded(vocab)), target(distil ? padded(vocab) : 0);
  const float factor = 1 / weights.temperature;
  const bool one_softmax = !distil || weights.temperature == 1;
  // The divergence's factor, and that of its gradient, which a logit enters divided by the temperature.
  const float size = weights.temperature * (kind == Divergence::total_variation ? 1 : weights.temperature);
  const float soft = weights.divergence * weights.scale * size * factor;
  LossSums sums;
  for (std::int64_t r = first; r < last; ++r) {
    const Values logits = all_logits.row(r);
    load_row(logits, 0, vocab, nothing, student.data());
    if (weights.softcap != 0) cap_row(student.data(), vocab, weights.softcap);
    const float lse = log_sum(student.data(), vocab, 1);
    const bool labelled = labels[r] >= 0;
    if (labelled) sums.cross_entropy += lse - student[labels[r]];
    const float hard = labelled ? weights.cross_entropy * weights.scale : 0;
    float soft_lse = lse, teacher_lse = 0;
    EntrySums of_row{0, 0};
    if (distil) {
      load_row(teacher.row(r), 0, vocab, nothing, target.data());
      if (!one_softmax) soft_lse = log_sum(student.data(), vocab, factor);
      teacher_lse = log_sum(target.data(), vocab, factor);
      of_row = entry_sums<kind>({student.data(), soft_lse}, {target.data(), teacher_lse}, vocab, factor);
      sums.divergence += size * of_row.value;
    }
    // The gradient is hard (softmax(s) - one-hot) + soft (slope - softmax(s / T) sum(slope)).
    const float raw_label = labelled ? student[labels[r]] : 0;
    const float softened = -soft * of_row.slope;
    const auto soft_factor = hn::Set(d, factor), own = hn::Set(d, soft_lse), other = hn::Set(d, teacher_lse);
    for (std::int64_t i = 0; i < padded(vocab); i += lanes) {
      const auto s = hn::LoadU(d, &student[i]);
      const auto sharp = hn::Exp(d, hn::Sub(s, hn::Set(d, lse)));
      auto slope = hn::Mul(hn::Set(d, one_softmax ? hard + softened : hard), sharp);
      if (distil) {
        const auto log_q = hn::MulSub(s, soft_factor, own);
        const auto q = one_softmax ? sharp : hn::Exp(d, log_q);
        const auto log_p = hn::MulSub(hn::LoadU(d, &target[i]), soft_factor, other);
        if (!one_softmax) slope = hn::MulAdd(hn::Set(d, softened), q, slope);
        slope = hn::MulAdd(hn::Set(d, soft), entry<kind>(q, log_q, log_p).slope, slope);
      }
      if (weights.softcap != 0) {
        const auto ratio = hn::Mul(s, hn::Set(d, 1 / weights.softcap));
        slope = hn::Mul(slope, hn::NegMulAdd(ratio, ratio, hn::Set(d, 1)));
      }
      hn::StoreU(slope, d, &student[i]);
    }
    if (labelled) {
      const float ratio = weights.softcap != 0 ? raw_label / weights.softcap : 0;
      student[labels[r]] -= hard * (1 - ratio * ratio);
    }
    store_row(student.data(), 0, vocab, false, logits);
  }
  return sums;
}

}  // namespace

LossSums vocabulary_loss_part(std::int64_t first, std::int64_t last, std::int64_t vocab,
                              const LossWeights& weights, const LogitRows& logits, const LogitRows& teacher,
                              const std::int32_t* labels) {
  const auto part = [&](auto run) { return run(first, last, vocab, weights, logits, teacher, labels); };
  const bool forward = weights.divergence == 0 || weights.kind == Divergence::forward_kl;
  if (forward && weights.temperature == 1 && weights.softcap == 0) return part(usual_loss_part);
  switch (weights.kind) {
    case Divergence::forward_kl:
      return part(loss_part<Divergence::forward_kl>);
    case Divergence::reverse_kl:
      return part(loss_part<Divergence::reverse_kl>);
    case Divergence::jensen_shannon:
      return part(loss_part<Divergence::jensen_shannon>);
    case Divergence::total_variation:
      break;
  }
  return part(loss_part<Divergence::total_variation>);
}

}  // namespace fathom::simd::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace fathom {
namespace simd {
HWY_EXPORT(vocabulary_loss_part);
}  // namespace simd

LossSums vocabulary_loss(std::int64_t rows, std::int64_t vocab, const LossWeights& weights,
                         const LogitRows& logits, const LogitRows& teacher,
                         std::span<const std::int32_t> labels) {
  using namespace simd;
  std::vector<LossSums> parts(thread_count());
  in_parts(rows, vocab, [&](std::int64_t part, std::int64_t first, std::int64_t last) {
    parts[part] = HWY_DYNAMIC_DISPATCH(vocabulary_loss_part)(first, last, vocab, weights, logits, teacher,
                                                             labels.data());
  });
  LossSums total;
  for (const LossSums& part : parts) total += part;
  return total;
}

}  // namespace fathom
#endif  // HWY_ONCE
