// What is done to each value or each row: bound by memory, so simple loops over vectors.
#include <algorithm>
#include <cmath>
#include <limits>
#include <utility>

#include "kernels/isa.h"
#include "kernels/simd.h"
#include "kernels/targets.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/elementwise.cpp"
#include <hwy/foreach_target.h>
// After foreach_target, as Highway wants it.
#include <hwy/contrib/math/math-inl.h>

#include "kernels/vectors-inl.h"

HWY_BEFORE_NAMESPACE();
namespace fathom::simd::HWY_NAMESPACE {

// Four sums, since each addition to one would wait for the last: norms of 512 rows of 576 take 25 us, not 30.
HWY_INLINE float sum_of_squares(std::size_t width, const float* x) {
  const D d;
  const std::size_t lanes = hn::Lanes(d);
  Vector a = hn::Zero(d), b = a, c = a, e = a;
  const auto add = [&](std::size_t i, std::size_t n, Vector& sum) {
    const Vector v = load(x + i, n);
    sum = hn::MulAdd(v, v, sum);
  };
  std::size_t i = 0;
  for (; i + 4 * lanes <= width; i += 4 * lanes) {
    add(i, lanes, a);
    add(i + lanes, lanes, b);
    add(i + 2 * lanes, lanes, c);
    add(i + 3 * lanes, lanes, e);
  }
  each_vector(width - i, [&](std::size_t rest, std::size_t n) { add(i + rest, n, a); });
  return hn::GetLane(hn::SumOfLanes(d, hn::Add(hn::Add(a, b), hn::Add(c, e))));
}

template <class T>
HWY_INLINE void normalised(std::size_t rows, std::size_t width, const float* x, const float* gain, float eps,
                           typename T::Element* y, std::size_t y_stride) {
  const D d;
  for (std::size_t r = 0; r < rows; ++r, x += width, y += y_stride) {
    const float mean = sum_of_squares(width, x) / static_cast<float>(width);
    const Vector factor = hn::Set(d, 1 / std::sqrt(mean + eps));
    each_vector(width, [&](std::size_t i, std::size_t n) {
      T::put(hn::Mul(hn::Mul(load(x + i, n), factor), load(gain + i, n)), y + i, n);
    });
  }
}

void rms_norm(std::size_t rows, std::size_t width, const float* x, const float* gain, float eps, float* y,
              std::size_t y_stride) {
  normalised<Float>(rows, width, x, gain, eps, y, y_stride);
}
void rms_norm_to_bf16(std::size_t rows, std::size_t width, const float* x, const float* gain, float eps,
                      std::uint16_t* y, std::size_t y_stride) {
  native_bf16() ? normalised<Bf16<true>>(rows, width, x, gain, eps, y, y_stride)
                : normalised<Bf16<false>>(rows, width, x, gain, eps, y, y_stride);
}

void rotary(std::size_t rows, std::size_t heads, std::size_t head_dim, const std::int64_t* positions,
            const float* table, float* x, std::size_t stride) {
  const std::size_t half = head_dim / 2;
  for (std::size_t r = 0; r < rows; ++r, x += stride) {
    const float* cosines = table + static_cast<std::size_t>(positions[r]) * head_dim;
    const float* sines = cosines + half;
    for (std::size_t h = 0; h < heads; ++h) {
      float* head = x + h * head_dim;
      each_vector(half, [&](std::size_t i, std::size_t n) {
        const Vector a = load(head + i, n), b = load(head + half + i, n);
        const Vector c = load(cosines + i, n), s = load(sines + i, n);
        store(hn::NegMulAdd(b, s, hn::Mul(a, c)), head + i, n);
        store(hn::MulAdd(a, s, hn::Mul(b, c)), head + half + i, n);
      });
    }
  }
}

// Soft cap, maximum, its place and the sum of e^(y - maximum), of some outputs of a row.
PieceSummary summarise(std::size_t count, float cap, float* y) {
  if (cap > 0) softcap(count, cap, y);
  const D d;
  const auto lowest = hn::Set(d, -std::numeric_limits<float>::infinity());
  const auto filled = [&](std::size_t i, std::size_t n) {
    return n == hn::Lanes(d) ? hn::LoadU(d, y + i) : hn::IfThenElse(hn::FirstN(d, n), load(y + i, n), lowest);
  };
  Vector top = lowest, second = lowest, finite = hn::Zero(d);
  each_vector(count, [&](std::size_t i, std::size_t n) {
    const auto value = filled(i, n);
    second = hn::Max(second, hn::Min(top, value));
    top = hn::Max(top, value);
    finite = hn::MulAdd(load(y + i, n), hn::Zero(d), finite);  // a NaN or an infinity makes this NaN
  });
  PieceSummary summary;
  summary.largest = hn::GetLane(hn::MaxOfLanes(d, top));
  const float sound = hn::GetLane(hn::SumOfLanes(d, finite));
  if (sound != 0) {
    summary.largest = sound;
    return summary;
  }
  while (y[summary.best] != summary.largest) ++summary.best;
  // The second is another lane's largest, or in second place in its own.
  summary.second = hn::GetLane(hn::MaxOfLanes(d, second));
  bool found = false;
  for (std::size_t lane = 0; lane < hn::Lanes(d); ++lane) {
    const float other = hn::ExtractLane(top, lane);
    if (other == summary.largest && !std::exchange(found, true)) continue;
    summary.second = std::max(summary.second, other);
  }
  const auto largest = hn::Set(d, summary.largest);
  Vector sum = hn::Zero(d), weighted = hn::Zero(d);
  each_vector(count, [&](std::size_t i, std::size_t n) {
    const auto far = hn::Max(hn::Sub(filled(i, n), largest), hn::Set(d, -87.0F));  // e^-87 adds nothing
    const auto weight = exponential(far);
    sum = hn::Add(sum, weight);
    weighted = hn::MulAdd(weight, far, weighted);
  });
  summary.sum = hn::GetLane(hn::SumOfLanes(d, sum));
  summary.weighted = hn::GetLane(hn::SumOfLanes(d, weighted));
  return summary;
}

void add(std::size_t count, const float* x, float* y) {
  each_vector(
      count, [&](std::size_t i, std::size_t n) { store(hn::Add(load(y + i, n), load(x + i, n)), y + i, n); });
}

void softcap(std::size_t count, float c, float* x) {
  const D d;
  const Vector cap = hn::Set(d, c), inverse = hn::Set(d, 1 / c);
  each_vector(count, [&](std::size_t i, std::size_t n) {
    store(hn::Mul(cap, hn::Tanh(d, hn::Mul(load(x + i, n), inverse))), x + i, n);
  });
}

const char* target() { return hwy::TargetName(HWY_TARGET); }

}  // namespace fathom::simd::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace fathom::simd {

HWY_EXPORT(rms_norm);
HWY_EXPORT(rms_norm_to_bf16);
HWY_EXPORT(rotary);
HWY_EXPORT(summarise);
HWY_EXPORT(add);
HWY_EXPORT(softcap);
HWY_EXPORT(target);

std::string target_name() { return HWY_DYNAMIC_DISPATCH(target)(); }

void rms_norm(std::size_t rows, std::size_t width, const float* x, const float* gain, float eps, float* y,
              std::size_t y_stride) {
  HWY_DYNAMIC_DISPATCH(rms_norm)(rows, width, x, gain, eps, y, y_stride);
}
void rms_norm(std::size_t rows, std::size_t width, const float* x, const float* gain, float eps,
              std::uint16_t* y, std::size_t y_stride) {
  HWY_DYNAMIC_DISPATCH(rms_norm_to_bf16)(rows, width, x, gain, eps, y, y_stride);
}
void rotary(std::size_t rows, std::size_t heads, std::size_t head_dim, const std::int64_t* positions,
            const float* table, float* x, std::size_t stride) {
  HWY_DYNAMIC_DISPATCH(rotary)(rows, heads, head_dim, positions, table, x, stride);
}
PieceSummary summarise(std::size_t count, float cap, float* y) {
  return HWY_DYNAMIC_DISPATCH(summarise)(count, cap, y);
}
void add(std::size_t count, const float* x, float* y) { HWY_DYNAMIC_DISPATCH(add)(count, x, y); }
void softcap(std::size_t count, float c, float* x) { HWY_DYNAMIC_DISPATCH(softcap)(count, c, x); }

}  // namespace fathom::simd
#endif
