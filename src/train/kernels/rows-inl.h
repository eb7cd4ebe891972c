// Rows between memory and the vectors of row_kernels.cpp and vocabulary_loss.cpp. Included once for each
// instruction set.

#if defined(FATHOM_ROWS_INL_H) == defined(HWY_TARGET_TOGGLE)
#ifdef FATHOM_ROWS_INL_H
#undef FATHOM_ROWS_INL_H
#else
#define FATHOM_ROWS_INL_H
#endif

#include <hwy/contrib/math/math-inl.h>

#include <algorithm>
#include <cmath>
#include <cstdint>

#include "kernels/vectors-inl.h"
#include "train/kernels/row_kernels.h"

HWY_BEFORE_NAMESPACE();
namespace fathom::simd::HWY_NAMESPACE {
namespace {

// A multiple of every target's lanes: rows in scratch memory are padded to whole vectors, so that
// loops need no tails.
inline constexpr std::int64_t padding = 64;

HWY_INLINE std::int64_t padded(std::int64_t width) { return (width + padding - 1) / padding * padding; }

/// A logit that is no token's: e to it is nothing beside any other's, and differences of two are 0, not NaN.
constexpr float nothing = -1e30F;

HWY_INLINE Vector power_of_e(Vector v) { return exponential(hn::Max(v, hn::Set(D(), -87.0F))); }

/// The sum of a row's vectors, in stretches: one float after another, 49,152 of them in four lanes stray by
/// 5e-5 of their sum.
class LongSum {
 public:
  HWY_INLINE LongSum() : total_(hn::Zero(D())), stretch_(hn::Zero(D())) {}
  HWY_INLINE void add(Vector v) {
    stretch_ = hn::Add(stretch_, v);
    if (HWY_LIKELY(++added_ % 64 != 0)) return;
    total_ = hn::Add(total_, stretch_);
    stretch_ = hn::Zero(D());
  }
  HWY_INLINE float value() const { return hn::GetLane(hn::SumOfLanes(D(), hn::Add(total_, stretch_))); }

 private:
  Vector total_, stretch_;
  unsigned added_ = 0;
};

HWY_INLINE float largest(const float* row, std::int64_t count) {
  Vector most = hn::Set(D(), row[0]);
  each_vector(static_cast<std::size_t>(count), [&](std::size_t i, std::size_t n) {
    const Vector v = load(row + i, n);
    most = hn::Max(most, n == hn::Lanes(D()) ? v : hn::IfThenElse(hn::FirstN(D(), n), v, most));
  });
  return hn::GetLane(hn::MaxOfLanes(D(), most));
}

/// log of the sum of e^(x factor).
HWY_INLINE float log_sum(const float* row, std::int64_t count, float factor) {
  const float top = largest(row, count) * factor;
  LongSum sum;
  each_vector(static_cast<std::size_t>(count), [&](std::size_t i, std::size_t n) {
    const Vector e = power_of_e(hn::MulSub(load(row + i, n), hn::Set(D(), factor), hn::Set(D(), top)));
    sum.add(n == hn::Lanes(D()) ? e : hn::IfThenElseZero(hn::FirstN(D(), n), e));
  });
  return top + std::log(sum.value());
}

/// A softmax is e^(x factor - top) / sum.
struct Exponentials {
  float top, sum;

  float log_sum() const { return top + std::log(sum); }
};

/// Of a padded row, into `to`, which may be the row; beside(i, xs, es) sees both.
template <class Beside>
HWY_INLINE Exponentials exponentials(const float* row, std::int64_t width, float factor, float* to,
                                     Beside beside) {
  const D d;
  const auto lanes = static_cast<std::int64_t>(hn::Lanes(d));
  const float top = largest(row, width) * factor;
  LongSum sum;
  for (std::int64_t i = 0; i < padded(width); i += lanes) {
    const Vector x = hn::LoadU(d, row + i);
    const Vector e = power_of_e(hn::MulSub(x, hn::Set(d, factor), hn::Set(d, top)));
    sum.add(e);
    beside(i, x, e);
    hn::StoreU(e, d, to + i);
  }
  return {top, sum.value()};
}

HWY_INLINE Exponentials exponentials(const float* row, std::int64_t width, float factor, float* to) {
  return exponentials(row, width, factor, to, [](auto...) {});
}

/// The soft cap of a padded row: c tanh(x / c).
HWY_INLINE void cap_row(float* row, std::int64_t width, float softcap) {
  const D d;
  const auto lanes = static_cast<std::int64_t>(hn::Lanes(d));
  const Vector most = hn::Set(d, softcap), inverse = hn::Set(d, 1 / softcap);
  for (std::int64_t i = 0; i < padded(width); i += lanes) {
    hn::StoreU(hn::Mul(most, hn::Tanh(d, hn::Mul(hn::LoadU(d, row + i), inverse))), d, row + i);
  }
  std::fill(row + width, row + padded(width), nothing);
}

template <typename T>
void load_values(const T* HWY_RESTRICT from, std::int64_t width, float* HWY_RESTRICT to) {
  each_vector(static_cast<std::size_t>(width),
              [&](std::size_t i, std::size_t n) { store(load(from + i, n), to + i, n); });
}

/// Row `row` as floats in `to`, followed by `filler` up to the padded width.
HWY_INLINE void load_row(Values from, std::int64_t row, std::int64_t width, float filler, float* to) {
  from.bf16 ? load_values(static_cast<const std::uint16_t*>(from.data) + row * width, width, to)
            : load_values(static_cast<const float*>(from.data) + row * width, width, to);
  std::fill(to + width, to + padded(width), filler);
}

template <class Type>
void store_values(const float* HWY_RESTRICT from, std::int64_t width, bool past_caches,
                  typename Type::Element* HWY_RESTRICT to) {
  each_vector(static_cast<std::size_t>(width), [&](std::size_t i, std::size_t n) {
    past_caches ? stream<Type>(load(from + i, n), to + i, n) : Type::put(load(from + i, n), to + i, n);
  });
}

/// The first `width` floats of `from` as row `row`. Past the caches (stream, vectors-inl.h) it goes where
/// rows are written that are not there yet, and more of them than the caches hold; who does that calls
/// hwy::FlushStream at the end.
HWY_INLINE void store_row(const float* from, std::int64_t row, std::int64_t width, bool past_caches,
                          Values to) {
  with_type(to.bf16, [&](auto type) {
    using Type = decltype(type);
    store_values<Type>(from, width, past_caches, static_cast<typename Type::Element*>(to.data) + row * width);
  });
}

}  // namespace
}  // namespace fathom::simd::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#endif  // per-target include guard
