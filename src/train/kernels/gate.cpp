#include "train/kernels/gate.h"

#include "base/threads.h"
#include "kernels/targets.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "train/kernels/gate.cpp"
#include <hwy/foreach_target.h>
// After foreach_target, as Highway wants it.
#include <hwy/cache_control.h>

#include "kernels/block_writer-inl.h"

HWY_BEFORE_NAMESPACE();
namespace fathom::simd::HWY_NAMESPACE {
namespace {

// Activations as value and slope.
struct Pair {
  Vector value, slope;
};
template <bool Rounded>
struct SiluPair {
  HWY_INLINE Pair operator()(Vector v) const {
    const Vector s = sigmoid<Rounded>(v), one = hn::Set(D(), 1.0F);
    return {hn::Mul(v, s), hn::Mul(s, hn::MulAdd(v, hn::Sub(one, s), one))};
  }
};
// x P(x) with the normal distribution's P; its slope is P(x) + x e^(-x²/2) / sqrt(2 pi).
struct GeluPair {
  HWY_INLINE Pair operator()(Vector v) const {
    const D d;
    const Vector half = hn::Set(d, 0.5F);
    const Vector p = hn::MulAdd(half, erf(hn::Mul(v, hn::Set(d, 0.70710678F))), half);
    const Vector density =
        hn::Mul(hn::Set(d, 0.39894228F), hn::Exp(d, hn::Mul(hn::Neg(half), hn::Mul(v, v))));
    return {hn::Mul(v, p), hn::MulAdd(v, density, p)};
  }
};
// x s(w) with w = 2 sqrt(2 / pi) (x + 0.044715 x³); its slope is s + x s (1 - s) w'.
template <bool Rounded>
struct GeluTanhPair {
  HWY_INLINE Pair operator()(Vector v) const {
    const D d;
    const Vector one = hn::Set(d, 1.0F), twice = hn::Set(d, 1.5957691F), square = hn::Mul(v, v);
    const Vector w = hn::Mul(hn::Mul(twice, v), hn::MulAdd(hn::Set(d, 0.044715F), square, one));
    const Vector s = sigmoid<Rounded>(w);
    const Vector turn = hn::Mul(twice, hn::MulAdd(hn::Set(d, 0.134145F), square, one));
    return {hn::Mul(v, s), hn::Mul(s, hn::MulAdd(hn::Mul(v, hn::Sub(one, s)), turn, one))};
  }
};
struct ReluPair {
  HWY_INLINE Pair operator()(Vector v) const {
    const D d;
    const Vector zero = hn::Zero(d);
    return {hn::Max(v, zero), hn::IfThenElse(hn::Gt(v, zero), hn::Set(d, 1.0F), zero)};
  }
};

template <class Activate, class Type, class T = typename Type::Element>
void forward_of(std::int64_t width, const T* gate_up, T* y) {
  each_vector(static_cast<std::size_t>(width), [&](std::size_t i, std::size_t n) {
    stream<Type>(hn::Mul(Activate()(load(gate_up + i, n)).value, load(gate_up + width + i, n)), y + i, n);
  });
}

template <class Activate, class Type, class T = typename Type::Element>
void backward_of(std::int64_t width, const T* gate_up, const T* dy, T* d_gate_up) {
  each_vector(static_cast<std::size_t>(width), [&](std::size_t i, std::size_t n) {
    const Pair gate = Activate()(load(gate_up + i, n));
    const Vector up = load(gate_up + width + i, n), slope = load(dy + i, n);
    stream<Type>(hn::Mul(hn::Mul(slope, up), gate.slope), d_gate_up + i, n);
    stream<Type>(hn::Mul(slope, gate.value), d_gate_up + width + i, n);
  });
}

template <class T>
T* row_at(Values values, std::int64_t row, std::int64_t width) {
  return static_cast<T*>(values.data) + row * width;
}

template <class Activate, class Type>
void rows_of(Range rows, std::int64_t width, Values gate_up, const Values* dy, Values to) {
  for (std::int64_t r = rows.first; r < rows.last; ++r) {
    using T = typename Type::Element;
    const T* pair = row_at<T>(gate_up, r, 2 * width);
    if (dy == nullptr)
      forward_of<Activate, Type>(width, pair, row_at<T>(to, r, width));
    else
      backward_of<Activate, Type>(width, pair, row_at<T>(*dy, r, width), row_at<T>(to, r, 2 * width));
  }
}

template <class Type>
void activation_of(Range rows, std::int64_t width, Activation activation, Values gate_up, const Values* dy,
                   Values to) {
  switch (activation) {
    case Activation::silu:
      return rows_of<SiluPair<Type::rounded>, Type>(rows, width, gate_up, dy, to);
    case Activation::gelu:
      return rows_of<GeluPair, Type>(rows, width, gate_up, dy, to);
    case Activation::gelu_tanh:
      return rows_of<GeluTanhPair<Type::rounded>, Type>(rows, width, gate_up, dy, to);
    case Activation::relu:
      return rows_of<ReluPair, Type>(rows, width, gate_up, dy, to);
  }
}

}  // namespace

// Forward without dy.
void gated_rows(Range rows, std::int64_t width, Activation activation, Values gate_up, const Values* dy,
                Values to) {
  with_type(gate_up.bf16,
            [&](auto type) { activation_of<decltype(type)>(rows, width, activation, gate_up, dy, to); });
  hwy::FlushStream();
}

}  // namespace fathom::simd::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace fathom {
namespace simd {
HWY_EXPORT(gated_rows);
}
namespace {

void on_rows(std::int64_t rows, std::int64_t width, Activation activation, Values gate_up, const Values* dy,
             Values to) {
  using namespace simd;
  on_each_thread([&](int thread, int threads) {
    HWY_DYNAMIC_DISPATCH(gated_rows)
    ({rows * thread / threads, rows * (thread + 1) / threads}, width, activation, gate_up, dy, to);
  });
}

}  // namespace

void gated(std::int64_t rows, std::int64_t width, Activation activation, Values gate_up, Values y) {
  on_rows(rows, width, activation, gate_up, nullptr, y);
}

void gated_backward(std::int64_t rows, std::int64_t width, Activation activation, Values gate_up, Values dy,
                    Values d_gate_up) {
  on_rows(rows, width, activation, gate_up, &dy, d_gate_up);
}

}  // namespace fathom
#endif  // HWY_ONCE
