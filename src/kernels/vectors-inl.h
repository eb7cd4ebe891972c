// What the loops over vectors share. Included once for each instruction set.

#if defined(FATHOM_VECTORS_INL_H) == defined(HWY_TARGET_TOGGLE)
#ifdef FATHOM_VECTORS_INL_H
#undef FATHOM_VECTORS_INL_H
#else
#define FATHOM_VECTORS_INL_H
#endif

#include <hwy/highway.h>

#include <cstddef>
#include <cstdint>

#include "kernels/isa.h"

HWY_BEFORE_NAMESPACE();
namespace fathom::simd::HWY_NAMESPACE {
namespace {  // also included by files that are compiled for one instruction set alone
namespace hn = hwy::HWY_NAMESPACE;
using D = hn::ScalableTag<float>;
using D32 = hn::RebindToUnsigned<D>;
using D16 = hn::Rebind<std::uint16_t, D32>;
using Vector = hn::Vec<D>;

// Calls body(i, lanes) for each whole vector of `count` elements and once for a shorter rest.
template <class Body>
HWY_INLINE void each_vector(std::size_t count, Body body) {
  const std::size_t lanes = hn::Lanes(D());
  std::size_t i = 0;
  for (; i + lanes <= count; i += lanes) body(i, lanes);
  if (i < count) body(i, count - i);
}

// What lies behind a shorter rest may be another thread's row, or no memory at all. Masks of Highway's keep
// off it where the processor has masked loads and stores; elsewhere a masked load reads a whole vector, and
// on NEON a store writes what it has read there back, over what another thread wrote meanwhile. So there a
// rest goes by way of a vector's room of its own.
inline constexpr bool masks_floats = HWY_TARGET <= HWY_AVX2, masks_halves = HWY_TARGET <= HWY_AVX3;

template <class Tag, class T>
HWY_INLINE hn::Vec<Tag> load_rest(Tag d, const T* from, std::size_t lanes) {
  T rest[hn::MaxLanes(d)] = {};
  for (std::size_t i = 0; i < lanes; ++i) rest[i] = from[i];
  return hn::LoadU(d, rest);
}
template <class Tag, class T>
HWY_INLINE void store_rest(hn::Vec<Tag> v, Tag d, T* to, std::size_t lanes) {
  T rest[hn::MaxLanes(d)];
  hn::StoreU(v, d, rest);
  for (std::size_t i = 0; i < lanes; ++i) to[i] = rest[i];
}

// Loads of a shorter rest are filled up with zeros.
HWY_INLINE Vector load(const float* from, std::size_t lanes) {
  const D d;
  if (HWY_LIKELY(lanes == hn::Lanes(d))) return hn::LoadU(d, from);
  if constexpr (masks_floats)
    return hn::MaskedLoad(hn::FirstN(d, lanes), d, from);
  else
    return load_rest(d, from, lanes);
}

HWY_INLINE Vector load(const std::uint16_t* from, std::size_t lanes) {
  const D16 d16;
  const auto bits = HWY_LIKELY(lanes == hn::Lanes(d16)) ? hn::LoadU(d16, from) : load_rest(d16, from, lanes);
  return hn::BitCast(D(), hn::ShiftLeft<16>(hn::PromoteTo(D32(), bits)));
}

HWY_INLINE void store(Vector v, float* to, std::size_t lanes) {
  const D d;
  if (HWY_LIKELY(lanes == hn::Lanes(d)))
    hn::StoreU(v, d, to);
  else if constexpr (masks_floats)
    hn::BlendedStore(v, hn::FirstN(d, lanes), d, to);
  else
    store_rest(v, d, to, lanes);
}

// The bits of v rounded to bf16 in the upper halves, zeros below. A NaN stays one: adding to its bits could
// make it an infinity.
HWY_INLINE hn::Vec<D32> bf16_bits(Vector v) {
  const D32 d32;
  const auto bits = hn::BitCast(d32, v);
  const auto odd = hn::And(hn::ShiftRight<16>(bits), hn::Set(d32, 1));
  const auto rounded = hn::Add(bits, hn::Add(odd, hn::Set(d32, 0x7fff)));
  const auto quiet = hn::Or(bits, hn::Set(d32, 0x400000));
  const auto either = hn::IfThenElse(hn::RebindMask(d32, hn::IsNaN(v)), quiet, rounded);
  return hn::And(either, hn::Set(d32, 0xffff0000));
}

// To bf16, rounded to nearest even. `Native`: by the instruction that every processor with AMX has; it takes
// numbers below 2^-126 for 0. The nine others take longer than a gated activation.
template <bool Native>
HWY_INLINE hn::Vec<D16> to_halves(Vector v) {
#if HWY_TARGET == HWY_AVX3
  if constexpr (Native) {
    hn::Vec<D16> halves;
    // Highway's AVX3 does not know it, and so its functions cannot call the intrinsic.
    __asm__("vcvtneps2bf16 %1, %0" : "=v"(halves.raw) : "v"(v.raw));
    return halves;
  }
#endif
  return hn::TruncateTo(D16(), hn::ShiftRight<16>(bf16_bits(v)));
}

template <bool Native = false>
HWY_INLINE void store(Vector v, std::uint16_t* to, std::size_t lanes) {
  const D16 d16;
  const hn::Vec<D16> halves = to_halves<Native>(v);
  if (HWY_LIKELY(lanes == hn::Lanes(d16)))
    hn::StoreU(halves, d16, to);
  else if constexpr (masks_halves)
    hn::BlendedStore(halves, hn::FirstN(d16, lanes), d16, to);
  else
    store_rest(halves, d16, to, lanes);
}

// Types of results; Native where the machine has AMX.
struct Float {
  using Element = float;
  static constexpr bool rounded = false;
  static HWY_INLINE void put(Vector v, float* to, std::size_t lanes) { store(v, to, lanes); }
  /// Past the caches; `to` is aligned to the vector, and neighbours follow until a line is full.
  static HWY_INLINE void stream(Vector v, float* to) { hn::Stream(v, D(), to); }
};
template <bool Native>
struct Bf16 {
  using Element = std::uint16_t;
  static constexpr bool rounded = true;
  static HWY_INLINE void put(Vector v, std::uint16_t* to, std::size_t lanes) { store<Native>(v, to, lanes); }
  static HWY_INLINE void stream(Vector v, std::uint16_t* to) { hn::Stream(to_halves<Native>(v), D16(), to); }
};

// Calls body with bf16 as this machine rounds activations.
template <class Body>
HWY_INLINE void with_bf16(Body body) {
  native_bf16() ? body(Bf16<true>()) : body(Bf16<false>());
}
// With that or float32.
template <class Body>
HWY_INLINE void with_type(bool bf16, Body body) {
  bf16 ? with_bf16(body) : body(Float());
}

// To memory past the caches where `to` is aligned to the vector, for what is next read after more than they
// hold: a normal store first reads the line from memory. Neighbours must follow until a line is full, and
// hwy::FlushStream at the end.
template <class Type>
HWY_INLINE void stream(Vector v, typename Type::Element* to, std::size_t lanes) {
  const std::size_t bytes = hn::Lanes(D()) * sizeof(*to);
  if (HWY_UNLIKELY(lanes != hn::Lanes(D()) || reinterpret_cast<std::size_t>(to) % bytes != 0))
    return Type::put(v, to, lanes);
  Type::stream(v, to);
}

// e^v for v from -87 to 88: 2^n times e^f, |f| at most ln(2) / 2, by the Taylor polynomial of degree 7, whose
// error there is 1e-8 of the result. Highway's own checks for more and takes longer. ln(2) is split in two,
// so that f is right to the last bit for large v, too.
HWY_INLINE Vector exponential(Vector v) {
  const D d;
  const hn::RebindToSigned<D> d32;
  const Vector n = hn::Round(hn::Mul(v, hn::Set(d, 1.44269504F)));
  const Vector f =
      hn::NegMulAdd(n, hn::Set(d, 1.42860677e-6F), hn::NegMulAdd(n, hn::Set(d, 0.693145752F), v));
  Vector p = hn::Set(d, 1.0F / 5040);
  for (const float coefficient : {1.0F / 720, 1.0F / 120, 1.0F / 24, 1.0F / 6, 0.5F, 1.0F, 1.0F})
    p = hn::MulAdd(p, f, hn::Set(d, coefficient));
  return hn::BitCast(d, hn::Add(hn::BitCast(d32, p), hn::ShiftLeft<23>(hn::ConvertTo(d32, n))));
}

// 2^t to within 7.5e-5 of itself, for what is rounded to bf16, by up to 2e-3: 2^floor(t) times a polynomial
// of the rest. Below 2^-126 it is 0, or that.
HWY_INLINE Vector coarse_exp2(Vector t) {
  const D d;
#if HWY_TARGET == HWY_AVX3
  const Vector f{_mm512_reduce_ps(t.raw, _MM_FROUND_TO_NEG_INF | _MM_FROUND_NO_EXC)};
#else
  t = hn::Max(t, hn::Set(d, -126.0F));
  const Vector n = hn::Floor(t), f = hn::Sub(t, n);
#endif
  Vector p = hn::Set(d, 7.8024523e-2F);
  for (const float coefficient : {2.2606716e-1F, 6.9583354e-1F, 9.9992522e-1F})
    p = hn::MulAdd(p, f, hn::Set(d, coefficient));
#if HWY_TARGET == HWY_AVX3
  return Vector{_mm512_scalef_ps(p.raw, t.raw)};
#else
  const hn::RebindToSigned<D> d32;
  return hn::BitCast(d, hn::Add(hn::BitCast(d32, p), hn::ShiftLeft<23>(hn::ConvertTo(d32, n))));
#endif
}

}  // namespace
}  // namespace fathom::simd::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#endif
