#include "train/row_kernels.h"

#include <algorithm>
#include <cmath>
#include <vector>

#include "base/threads.h"
#include "formats/float16.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "train/row_kernels.cpp"
#include <hwy/foreach_target.h>
// After foreach_target: the target's own namespace.
#include <hwy/cache_control.h>
#include <hwy/contrib/math/math-inl.h>
#include <hwy/highway.h>

HWY_BEFORE_NAMESPACE();
namespace fathom::HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;

using Floats = hn::ScalableTag<float>;
using Vector = hn::Vec<Floats>;
// A multiple of every target's lanes: rows in scratch memory are padded to whole vectors, so that
// loops need no tails.
constexpr std::int64_t padding = 64;

std::int64_t padded(std::int64_t width) { return (width + padding - 1) / padding * padding; }

Vector widen(Floats d, const std::uint16_t* from) {
  const hn::Rebind<std::uint16_t, Floats> halves;
  const hn::RebindToUnsigned<Floats> words;
  return hn::BitCast(d, hn::ShiftLeft<16>(hn::PromoteTo(words, hn::LoadU(halves, from))));
}

/// Rounded to nearest, ties to even.
hn::Vec<hn::Rebind<std::uint16_t, Floats>> halves_of(Vector value) {
  const hn::Rebind<std::uint16_t, Floats> halves;
  const hn::RebindToUnsigned<Floats> words;
  const hn::RebindToSigned<Floats> integers;
  const auto bits = hn::BitCast(words, value);
  const auto odd = hn::And(hn::ShiftRight<16>(bits), hn::Set(words, 1));
  const auto rounded = hn::ShiftRight<16>(hn::Add(bits, hn::Add(odd, hn::Set(words, 0x7fff))));
  return hn::DemoteTo(halves, hn::BitCast(integers, rounded));
}

void put(Vector value, float* to) { hn::StoreU(value, Floats(), to); }
void put(Vector value, std::uint16_t* to) {
  hn::StoreU(halves_of(value), hn::Rebind<std::uint16_t, Floats>(), to);
}
/// Past the caches; `to` is aligned.
void stream(Vector value, float* to) { hn::Stream(value, Floats(), to); }
void stream(Vector value, std::uint16_t* to) {
  hn::Stream(halves_of(value), hn::Rebind<std::uint16_t, Floats>(), to);
}

/// Row `row` as floats in `to`, followed by `filler` up to the padded width.
void load_row(Values from, std::int64_t row, std::int64_t width, float filler, float* HWY_RESTRICT to) {
  const Floats d;
  const auto lanes = static_cast<std::int64_t>(hn::Lanes(d));
  if (from.bf16) {
    const auto* in = static_cast<const std::uint16_t*>(from.data) + row * width;
    std::int64_t i = 0;
    for (; i + lanes <= width; i += lanes) hn::StoreU(widen(d, in + i), d, to + i);
    for (; i < width; ++i) to[i] = from_bf16(in[i]);
  } else {
    const auto* in = static_cast<const float*>(from.data) + row * width;
    std::copy(in, in + width, to);
  }
  std::fill(to + width, to + padded(width), filler);
}

template <typename T>
void store_values(const float* HWY_RESTRICT from, std::int64_t width, bool past_caches, T* to) {
  const Floats d;
  const auto lanes = static_cast<std::int64_t>(hn::Lanes(d));
  const bool streams = past_caches && reinterpret_cast<std::size_t>(to) % (lanes * sizeof(T)) == 0;
  std::int64_t i = 0;
  for (; i + lanes <= width; i += lanes) {
    const auto value = hn::LoadU(d, from + i);
    streams ? stream(value, to + i) : put(value, to + i);
  }
  if (i == width) return;
  T last[padding];
  put(hn::LoadU(d, from + i), last);
  std::copy(last, last + (width - i), to + i);
}

/// The first `width` floats of `from` (padded) as row `row`. Past the caches it goes where rows are written
/// that are not there yet, and more of them than the caches hold: a normal store reads each line first. Who
/// does that calls hwy::FlushStream at the end.
void store_row(const float* HWY_RESTRICT from, std::int64_t row, std::int64_t width, bool past_caches,
               Values to) {
  to.bf16 ? store_values(from, width, past_caches, static_cast<std::uint16_t*>(to.data) + row * width)
          : store_values(from, width, past_caches, static_cast<float*>(to.data) + row * width);
}

void rms_norm_part(std::int64_t first, std::int64_t last, std::int64_t width, Values x, const float* gain,
                   float eps, Values y, float* inverse_rms) {
  const Floats d;
  const auto lanes = static_cast<std::int64_t>(hn::Lanes(d));
  std::vector<float> row(padded(width)), gains(padded(width));
  std::copy(gain, gain + width, gains.begin());
  for (std::int64_t r = first; r < last; ++r) {
    load_row(x, r, width, 0, row.data());
    auto squares = hn::Zero(d);
    for (std::int64_t i = 0; i < padded(width); i += lanes) {
      const auto v = hn::LoadU(d, &row[i]);
      squares = hn::MulAdd(v, v, squares);
    }
    const float mean = hn::GetLane(hn::SumOfLanes(d, squares)) / static_cast<float>(width);
    inverse_rms[r] = 1 / std::sqrt(mean + eps);
    const auto factor = hn::Set(d, inverse_rms[r]);
    for (std::int64_t i = 0; i < padded(width); i += lanes) {
      hn::StoreU(hn::Mul(hn::Mul(hn::LoadU(d, &row[i]), factor), hn::LoadU(d, &gains[i])), d, &row[i]);
    }
    store_row(row.data(), r, width, true, y);
  }
  hwy::FlushStream();
}

/// gain_gradient: this part's own sums [padded width], or nullptr.
void rms_norm_backward_part(std::int64_t first, std::int64_t last, std::int64_t width, Values dy, Values x,
                            const float* gain, const float* inverse_rms, Values dx, float* gain_gradient) {
  const Floats d;
  const auto lanes = static_cast<std::int64_t>(hn::Lanes(d));
  std::vector<float> input(padded(width)), slope(padded(width)), gains(padded(width));
  std::copy(gain, gain + width, gains.begin());
  for (std::int64_t r = first; r < last; ++r) {
    load_row(x, r, width, 0, input.data());
    load_row(dy, r, width, 0, slope.data());
    const auto inverse = hn::Set(d, inverse_rms[r]);
    auto products = hn::Zero(d);
    for (std::int64_t i = 0; i < padded(width); i += lanes) {
      const auto unit = hn::Mul(hn::LoadU(d, &input[i]), inverse);
      const auto out = hn::LoadU(d, &slope[i]);
      if (gain_gradient != nullptr) {
        hn::StoreU(hn::MulAdd(out, unit, hn::LoadU(d, gain_gradient + i)), d, gain_gradient + i);
      }
      const auto scaled = hn::Mul(out, hn::LoadU(d, &gains[i]));
      products = hn::MulAdd(scaled, unit, products);
      hn::StoreU(unit, d, &input[i]);
      hn::StoreU(scaled, d, &slope[i]);
    }
    const auto mean = hn::Set(d, hn::GetLane(hn::SumOfLanes(d, products)) / static_cast<float>(width));
    for (std::int64_t i = 0; i < padded(width); i += lanes) {
      const auto value = hn::NegMulAdd(hn::LoadU(d, &input[i]), mean, hn::LoadU(d, &slope[i]));
      hn::StoreU(hn::Mul(value, inverse), d, &slope[i]);
    }
    store_row(slope.data(), r, width, true, dx);
  }
  hwy::FlushStream();
}

void rotate_part(std::int64_t first, std::int64_t last, std::int64_t width, std::int64_t heads,
                 std::int64_t positions, std::int64_t head_dim, const float* cosines, const float* sines,
                 float direction, Values x, Values y) {
  const std::int64_t half = head_dim / 2;
  std::vector<float> from(padded(width)), to(padded(width));
  for (std::int64_t r = first; r < last; ++r) {
    load_row(x, r, width, 0, from.data());
    const float* cosine = cosines + r % positions * half;
    const float* sine = sines + r % positions * half;
    for (std::int64_t head = 0; head < heads; ++head) {
      const float* HWY_RESTRICT in = &from[head * head_dim];
      float* HWY_RESTRICT out = &to[head * head_dim];
      for (std::int64_t i = 0; i < half; ++i) {
        out[i] = in[i] * cosine[i] - direction * in[i + half] * sine[i];
        out[i + half] = in[i + half] * cosine[i] + direction * in[i] * sine[i];
      }
    }
    std::copy(from.begin() + heads * head_dim, from.begin() + width, to.begin() + heads * head_dim);
    store_row(to.data(), r, width, true, y);
  }
  hwy::FlushStream();
}

/// log(sum(exp(x * factor))) over a padded row whose filler is very negative.
float log_sum_exp(const float* row, std::int64_t width, float factor, float largest) {
  const Floats d;
  const auto lanes = static_cast<std::int64_t>(hn::Lanes(d));
  const auto scale = hn::Set(d, factor), top = hn::Set(d, largest * factor);
  auto sum = hn::Zero(d);
  for (std::int64_t i = 0; i < padded(width); i += lanes) {
    sum = hn::Add(sum, hn::Exp(d, hn::MulSub(hn::LoadU(d, row + i), scale, top)));
  }
  return largest * factor + std::log(hn::GetLane(hn::SumOfLanes(d, sum)));
}

float row_max(const float* row, std::int64_t width) {
  const Floats d;
  const auto lanes = static_cast<std::int64_t>(hn::Lanes(d));
  auto most = hn::Set(d, row[0]);
  for (std::int64_t i = 0; i < padded(width); i += lanes) most = hn::Max(most, hn::LoadU(d, row + i));
  return hn::GetLane(hn::MaxOfLanes(d, most));
}

/// temperature² KL(teacher || student) of padded rows.
float row_divergence(const float* student, const float* teacher, std::int64_t width, float temperature,
                     float student_lse, float teacher_lse) {
  const Floats d;
  const auto lanes = static_cast<std::int64_t>(hn::Lanes(d));
  const auto factor = hn::Set(d, 1 / temperature);
  const auto own = hn::Set(d, student_lse), other = hn::Set(d, teacher_lse);
  auto sum = hn::Zero(d);
  for (std::int64_t i = 0; i < padded(width); i += lanes) {
    const auto log_p = hn::MulSub(hn::LoadU(d, teacher + i), factor, other);
    const auto log_q = hn::MulSub(hn::LoadU(d, student + i), factor, own);
    sum = hn::MulAdd(hn::Exp(d, log_p), hn::Sub(log_p, log_q), sum);
  }
  return temperature * temperature * hn::GetLane(hn::SumOfLanes(d, sum));
}

/// Filler of padded logits: exp gives 0, and differences of two fillers are 0, not NaN.
constexpr float nothing = -1e30F;

LossSums vocabulary_loss_part(std::int64_t first, std::int64_t last, std::int64_t vocab,
                              const LossWeights& weights, Values all_logits, std::int64_t stride,
                              const float* teacher, const std::int32_t* labels) {
  const Floats d;
  const auto lanes = static_cast<std::int64_t>(hn::Lanes(d));
  const bool distil = weights.divergence != 0;
  std::vector<float> student(padded(vocab)), target(distil ? padded(vocab) : 0);
  const float factor = 1 / weights.temperature;
  LossSums sums;
  for (std::int64_t r = first; r < last; ++r) {
    const Values logits = {static_cast<std::byte*>(all_logits.data) + r * stride * (all_logits.bf16 ? 2 : 4),
                           all_logits.bf16};
    load_row(logits, 0, vocab, nothing, student.data());
    if (weights.softcap != 0) {
      const auto cap = hn::Set(d, weights.softcap), inverse = hn::Set(d, 1 / weights.softcap);
      for (std::int64_t i = 0; i < padded(vocab); i += lanes) {
        hn::StoreU(hn::Mul(cap, hn::Tanh(d, hn::Mul(hn::LoadU(d, &student[i]), inverse))), d, &student[i]);
      }
      std::fill(student.begin() + vocab, student.end(), nothing);
    }
    const float largest = row_max(student.data(), vocab);
    const float lse = log_sum_exp(student.data(), vocab, 1, largest);
    const bool labelled = labels[r] >= 0;
    if (labelled) sums.cross_entropy += lse - student[labels[r]];
    // The gradient is hard * softmax(s) + soft * softmax(s / T) - soft * softmax(t / T) - hard * one-hot.
    const float hard = labelled ? weights.cross_entropy * weights.scale : 0;
    const float soft = weights.divergence * weights.temperature * weights.scale;
    float soft_lse = lse, teacher_lse = 0;
    if (distil) {
      load_row({const_cast<float*>(teacher), false}, r, vocab, nothing, target.data());
      if (weights.temperature != 1) soft_lse = log_sum_exp(student.data(), vocab, factor, largest);
      teacher_lse = log_sum_exp(target.data(), vocab, factor, row_max(target.data(), vocab));
      sums.divergence +=
          row_divergence(student.data(), target.data(), vocab, weights.temperature, soft_lse, teacher_lse);
    }
    const bool one_softmax = !distil || weights.temperature == 1;
    const float raw_label = labelled ? student[labels[r]] : 0;
    const auto soft_factor = hn::Set(d, factor), own = hn::Set(d, soft_lse), other = hn::Set(d, teacher_lse);
    for (std::int64_t i = 0; i < padded(vocab); i += lanes) {
      const auto s = hn::LoadU(d, &student[i]);
      auto slope = hn::Mul(hn::Set(d, one_softmax ? hard + (distil ? soft : 0) : hard),
                           hn::Exp(d, hn::Sub(s, hn::Set(d, lse))));
      if (!one_softmax) {
        slope = hn::MulAdd(hn::Set(d, soft), hn::Exp(d, hn::MulSub(s, soft_factor, own)), slope);
      }
      if (distil) {
        const auto p = hn::Exp(d, hn::MulSub(hn::LoadU(d, &target[i]), soft_factor, other));
        slope = hn::NegMulAdd(hn::Set(d, soft), p, slope);
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

}  // namespace fathom::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace fathom {
namespace {

HWY_EXPORT(rms_norm_part);
HWY_EXPORT(rms_norm_backward_part);
HWY_EXPORT(rotate_part);
HWY_EXPORT(vocabulary_loss_part);

// Below so many values a share is sooner done than handed to another thread.
constexpr std::int64_t values_worth_a_thread = 16'384;

/// body(part, first, last) for one contiguous share of [0, count) a thread; an item has `width` values.
template <typename Body>
void in_parts(std::int64_t count, std::int64_t width, const Body& body) {
  const std::int64_t parts =
      std::clamp<std::int64_t>(count * width / values_worth_a_thread, 1, thread_count());
  if (parts == 1) return body(0, 0, count);
  parallel_for(parts, [&](std::int64_t part) {
    const std::int64_t first = count * part / parts, last = count * (part + 1) / parts;
    if (first < last) body(part, first, last);
  });
}

}  // namespace

void rms_norm(std::int64_t rows, std::int64_t width, Values x, const float* gain, float eps, Values y,
              float* inverse_rms) {
  in_parts(rows, width, [&](std::int64_t, std::int64_t first, std::int64_t last) {
    HWY_DYNAMIC_DISPATCH(rms_norm_part)(first, last, width, x, gain, eps, y, inverse_rms);
  });
}

void rms_norm_backward(std::int64_t rows, std::int64_t width, Values dy, Values x, const float* gain,
                       const float* inverse_rms, Values dx, float* gain_gradient) {
  const std::int64_t stride = width + 64;  // room for the padding
  std::vector<float> sums(gain_gradient != nullptr ? thread_count() * stride : 0);
  in_parts(rows, width, [&](std::int64_t part, std::int64_t first, std::int64_t last) {
    float* own = gain_gradient != nullptr ? &sums[part * stride] : nullptr;
    HWY_DYNAMIC_DISPATCH(rms_norm_backward_part)
    (first, last, width, dy, x, gain, inverse_rms, dx, own);
  });
  if (gain_gradient == nullptr) return;
  for (std::int64_t part = 0; part < thread_count(); ++part) {
    for (std::int64_t i = 0; i < width; ++i) gain_gradient[i] += sums[part * stride + i];
  }
}

void rotate(std::int64_t rows, std::int64_t width, std::int64_t heads, std::int64_t positions,
            std::int64_t head_dim, const float* cosines, const float* sines, float direction, Values x,
            Values y) {
  in_parts(rows, width, [&](std::int64_t, std::int64_t first, std::int64_t last) {
    HWY_DYNAMIC_DISPATCH(rotate_part)
    (first, last, width, heads, positions, head_dim, cosines, sines, direction, x, y);
  });
}

LossSums vocabulary_loss(std::int64_t rows, std::int64_t vocab, const LossWeights& weights, Values logits,
                         std::int64_t stride, const float* teacher, std::span<const std::int32_t> labels) {
  std::vector<LossSums> parts(thread_count());
  in_parts(rows, vocab, [&](std::int64_t part, std::int64_t first, std::int64_t last) {
    parts[part] = HWY_DYNAMIC_DISPATCH(vocabulary_loss_part)(first, last, vocab, weights, logits, stride,
                                                             teacher, labels.data());
  });
  LossSums total;
  for (const LossSums& part : parts) {
    total.cross_entropy += part.cross_entropy;
    total.divergence += part.divergence;
  }
  return total;
}

}  // namespace fathom
#endif  // HWY_ONCE
