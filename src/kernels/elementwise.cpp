// What is done to each value or each row: bound by memory, so simple loops over vectors.
#include <algorithm>
#include <cmath>
#include <limits>

#include "kernels/product.h"
#include "kernels/quantise.h"
#include "kernels/simd.h"
#include "kernels/targets.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/elementwise.cpp"
#include <hwy/foreach_target.h>
// After foreach_target, as Highway wants it.
#include <hwy/contrib/math/math-inl.h>
#include <hwy/highway.h>

HWY_BEFORE_NAMESPACE();
namespace fathom::simd::HWY_NAMESPACE {
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

// Loads of a shorter rest are filled up with zeros.
HWY_INLINE Vector load(const float* from, std::size_t lanes) {
  const D d;
  return HWY_LIKELY(lanes == hn::Lanes(d)) ? hn::LoadU(d, from)
                                           : hn::MaskedLoad(hn::FirstN(d, lanes), d, from);
}

HWY_INLINE void store(Vector v, float* to, std::size_t lanes) {
  const D d;
  if (HWY_LIKELY(lanes == hn::Lanes(d)))
    hn::StoreU(v, d, to);
  else
    hn::BlendedStore(v, hn::FirstN(d, lanes), d, to);
}

void rms_norm(std::size_t rows, std::size_t width, const float* x, const float* gain, float eps, float* y) {
  const D d;
  for (std::size_t r = 0; r < rows; ++r, x += width, y += width) {
    Vector squares = hn::Zero(d);
    each_vector(width, [&](std::size_t i, std::size_t n) {
      const Vector v = load(x + i, n);
      squares = hn::MulAdd(v, v, squares);
    });
    const float mean = hn::GetLane(hn::SumOfLanes(d, squares)) / static_cast<float>(width);
    const Vector factor = hn::Set(d, 1 / std::sqrt(mean + eps));
    each_vector(width, [&](std::size_t i, std::size_t n) {
      store(hn::Mul(hn::Mul(load(x + i, n), factor), load(gain + i, n)), y + i, n);
    });
  }
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

// 1 / v for v from 1 on: the processor's estimate (12 bits or more), twice (14 bits: once) corrected by
// Newton's step. A division takes 16 cycles for 16 floats, and nothing else runs beside it.
HWY_INLINE Vector reciprocal(Vector v) {
  const D d;
  const Vector two = hn::Set(d, 2.0F);
  Vector r = hn::ApproximateReciprocal(v);
  r = hn::Mul(r, hn::NegMulAdd(v, r, two));
  if constexpr (HWY_TARGET > HWY_AVX3) r = hn::Mul(r, hn::NegMulAdd(v, r, two));
  return r;
}

// 1 / (1 + e^-v). Beyond 87, e^-v leaves float32's range, and the quotient with it; x times that is 0 either
// way.
HWY_INLINE Vector sigmoid(Vector v) {
  const D d;
  const Vector bounded = hn::Min(hn::Max(hn::Neg(v), hn::Set(d, -87.0F)), hn::Set(d, 87.0F));
  return reciprocal(hn::Add(hn::Set(d, 1.0F), exponential(bounded)));
}

// Abramowitz and Stegun 7.1.26, |error| < 1.5e-7.
HWY_INLINE Vector erf(Vector v) {
  const D d;
  const Vector one = hn::Set(d, 1.0F);
  const Vector a = hn::Abs(v);
  const Vector t = hn::Div(one, hn::MulAdd(a, hn::Set(d, 0.3275911F), one));
  Vector p = hn::Set(d, 1.061405429F);
  for (const float coefficient : {-1.453152027F, 1.421413741F, -0.284496736F, 0.254829592F})
    p = hn::MulAdd(p, t, hn::Set(d, coefficient));
  return hn::CopySign(hn::NegMulAdd(hn::Mul(p, t), hn::Exp(d, hn::Neg(hn::Mul(a, a))), one), v);
}

struct Silu {
  HWY_INLINE Vector operator()(Vector v) const { return hn::Mul(v, sigmoid(v)); }
};
struct Gelu {
  HWY_INLINE Vector operator()(Vector v) const {
    const D d;
    const Vector half = hn::Set(d, 0.5F);
    return hn::Mul(v, hn::MulAdd(half, erf(hn::Mul(v, hn::Set(d, 0.70710678F))), half));
  }
};
// x (1 + tanh u) / 2 is x sigmoid(2 u), with u = sqrt(2 / pi) (x + 0.044715 x^3).
struct GeluTanh {
  HWY_INLINE Vector operator()(Vector v) const {
    const D d;
    const Vector cubic = hn::MulAdd(hn::Mul(hn::Set(d, 0.044715F), v), hn::Mul(v, v), v);
    return hn::Mul(v, sigmoid(hn::Mul(hn::Set(d, 1.5957691F), cubic)));
  }
};
struct Relu {
  HWY_INLINE Vector operator()(Vector v) const { return hn::Max(v, hn::Zero(D())); }
};

// Blocks of alternating gates and ups (ProductKernel) to y.
template <class Function>
HWY_INLINE void gated_block(const PackedMatrix& weight, const Destination& to, std::int64_t row,
                            std::int64_t rows, std::int64_t first, std::int64_t count, const float* block) {
  const D d;
  const std::int64_t half = weight.out / 2;
  for (std::int64_t r = row; r < row + rows; ++r) {
    for (std::int64_t p = 0; p < count; p += 2, block += 2 * panel_outputs) {
      const std::int64_t output = (first + p) / 2 * panel_outputs;
      const float* bias = weight.bias.empty() ? nullptr : weight.bias.data() + (first + p) * panel_outputs;
      const float* addend = to.addend != nullptr ? to.addend + r * weight.out + output : nullptr;
      each_vector(static_cast<std::size_t>(std::min(panel_outputs, half - output)),
                  [&](std::size_t i, std::size_t n) {
                    Vector gate = hn::LoadU(d, block + i), up = hn::LoadU(d, block + panel_outputs + i);
                    if (bias != nullptr) {
                      gate = hn::Add(gate, hn::LoadU(d, bias + i));
                      up = hn::Add(up, hn::LoadU(d, bias + panel_outputs + i));
                    }
                    if (addend != nullptr) {
                      gate = hn::Add(gate, load(addend + i, n));
                      up = hn::Add(up, load(addend + half + i, n));
                    }
                    store(hn::Mul(Function()(gate), up), to.y + r * to.stride + output + i, n);
                  });
    }
  }
}

HWY_INLINE void plain_block(const PackedMatrix& weight, const Destination& to, std::int64_t row,
                            std::int64_t rows, std::int64_t first, std::int64_t count, const float* block) {
  const std::int64_t output = first * panel_outputs;
  float* rows_of_y = to.y + output - to.first_output;
  const auto outputs = static_cast<std::size_t>(std::min(count * panel_outputs, weight.out - output));
  const float* bias = weight.bias.empty() ? nullptr : weight.bias.data() + output;
  for (std::int64_t r = row; r < row + rows; ++r, block += count * panel_outputs) {
    float* y = rows_of_y + r * to.stride;
    each_vector(outputs, [&](std::size_t i, std::size_t n) {
      Vector v = load(block + i, n);
      if (bias != nullptr) v = hn::Add(v, load(bias + i, n));
      if (to.accumulate) v = hn::Add(v, load(y + i, n));
      store(v, y + i, n);
    });
  }
}

void write_block(const PackedMatrix& weight, const Destination& to, std::int64_t row, std::int64_t rows,
                 std::int64_t first, std::int64_t count, const float* block) {
  if (!weight.gated) return plain_block(weight, to, row, rows, first, count, block);
  switch (to.activation) {
    case GateActivation::silu:
      return gated_block<Silu>(weight, to, row, rows, first, count, block);
    case GateActivation::gelu:
      return gated_block<Gelu>(weight, to, row, rows, first, count, block);
    case GateActivation::gelu_tanh:
      return gated_block<GeluTanh>(weight, to, row, rows, first, count, block);
    case GateActivation::relu:
      return gated_block<Relu>(weight, to, row, rows, first, count, block);
  }
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

// Soft cap, maximum, its place and the sum of e^(y - maximum), of some outputs of a row.
PieceSummary summarise(std::size_t count, float cap, float* y) {
  if (cap > 0) softcap(count, cap, y);
  const D d;
  const auto lowest = hn::Set(d, -std::numeric_limits<float>::infinity());
  const auto filled = [&](std::size_t i, std::size_t n) {
    return n == hn::Lanes(d) ? hn::LoadU(d, y + i) : hn::IfThenElse(hn::FirstN(d, n), load(y + i, n), lowest);
  };
  Vector top = lowest, finite = hn::Zero(d);
  each_vector(count, [&](std::size_t i, std::size_t n) {
    top = hn::Max(top, filled(i, n));
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
  const auto largest = hn::Set(d, summary.largest);
  Vector sum = hn::Zero(d);
  each_vector(count, [&](std::size_t i, std::size_t n) {
    const auto far = hn::Max(hn::Sub(filled(i, n), largest), hn::Set(d, -87.0F));  // e^-87 adds nothing
    sum = hn::Add(sum, exponential(far));
  });
  summary.sum = hn::GetLane(hn::SumOfLanes(d, sum));
  return summary;
}

// Where byte `byte` of a row that lies in tiles is.
HWY_INLINE std::int64_t in_tile(std::size_t byte) {
  return tiled_offset(0, 0, static_cast<std::int64_t>(byte));
}

// quantise_activations of quantise.h.
float to_int8(std::size_t width, std::size_t padded, const float* x, std::int8_t* y) {
  const D d;
  const hn::Rebind<std::int8_t, D> d8;
  const std::size_t lanes = hn::Lanes(d);
  // A maximum takes 4 cycles, so that one alone would wait for itself.
  Vector largest[4] = {hn::Zero(d), hn::Zero(d), hn::Zero(d), hn::Zero(d)};
  std::size_t i = 0;
  for (; i + 4 * lanes <= width; i += 4 * lanes)
    for (std::size_t j = 0; j < 4; ++j)
      largest[j] = hn::Max(largest[j], hn::Abs(hn::LoadU(d, x + i + j * lanes)));
  for (; i < width; i += lanes)
    largest[0] = hn::Max(largest[0], hn::Abs(load(x + i, std::min(lanes, width - i))));
  const float most = hn::GetLane(
      hn::MaxOfLanes(d, hn::Max(hn::Max(largest[0], largest[1]), hn::Max(largest[2], largest[3]))));
  const Vector inverse = hn::Set(d, most > 0 ? 127 / most : 0);
  const auto put = [&](Vector v, std::size_t at) {
    hn::StoreU(hn::DemoteTo(d8, hn::NearestInt(hn::Mul(v, inverse))), d8, y + in_tile(at));
  };
  for (i = 0; i + lanes <= width; i += lanes) put(hn::LoadU(d, x + i), i);
  for (; i < padded; i += lanes) put(i < width ? load(x + i, width - i) : hn::Zero(d), i);
  return most / 127;
}

void to_int8_groups(std::size_t width, std::size_t padded, std::size_t group, const float* x, std::int8_t* y,
                    float* scales) {
  constexpr std::size_t together = group_size;
  const hn::CappedTag<float, together> d;
  const hn::Rebind<std::int8_t, decltype(d)> d8;
  const std::size_t lanes = hn::Lanes(d);
  alignas(64) float last[together] = {};
  for (std::size_t at = 0; at < padded; at += together) {
    const float* from = x + at;
    if (at + together > width) {
      std::fill(std::copy(x + std::min(at, width), x + width, last), std::end(last), 0.0F);
      from = last;
    }
    auto largest = hn::Zero(d);
    for (std::size_t i = 0; i < together; i += lanes)
      largest = hn::Max(largest, hn::Abs(hn::LoadU(d, from + i)));
    const float most = hn::GetLane(hn::MaxOfLanes(d, largest));
    const auto inverse = hn::Set(d, most > 0 ? 127 / most : 0);
    for (std::size_t i = 0; i < together; i += lanes)
      hn::StoreU(hn::DemoteTo(d8, hn::NearestInt(hn::Mul(hn::LoadU(d, from + i), inverse))), d8,
                 y + in_tile(at + i));
    for (std::size_t g = at / group; g < (at + together) / group; ++g) scales[g * 16] = most / 127;
  }
}

// Sums of eight neighbouring bytes are one instruction for unsigned ones: 128 more each.
void sum_groups(std::size_t groups, std::size_t size, const std::int8_t* row, std::int32_t* sums) {
  const hn::CappedTag<std::uint8_t, 16> d8;
  const hn::RepartitionToWide<hn::RepartitionToWide<hn::RepartitionToWide<decltype(d8)>>> d64;
  const auto flip = hn::Set(d8, 0x80);
  for (std::size_t g = 0; g < groups; ++g) {
    auto sum = hn::Zero(d64);
    for (std::size_t i = 0; i < size; i += hn::Lanes(d8)) {
      const auto* from = reinterpret_cast<const std::uint8_t*>(row + in_tile(g * size + i));
      sum = hn::Add(sum, hn::SumsOf8(hn::Xor(hn::LoadU(d8, from), flip)));
    }
    sums[g * 16] = static_cast<std::int32_t>(hn::GetLane(hn::SumOfLanes(d64, sum))) -
                   128 * static_cast<std::int32_t>(size);
  }
}

void to_bf16_tiles(std::size_t width, std::size_t padded, const float* x, std::uint16_t* y) {
  const D16 d16;
  const std::size_t lanes = hn::Lanes(d16);
  const auto put = [&](Vector v, std::size_t at) {
    hn::StoreU(hn::TruncateTo(d16, hn::ShiftRight<16>(bf16_bits(v))), d16, y + in_tile(at * 2) / 2);
  };
  std::size_t i = 0;
  for (; i + lanes <= width; i += lanes) put(hn::LoadU(D(), x + i), i);
  for (; i < padded; i += lanes) put(i < width ? load(x + i, width - i) : hn::Zero(D()), i);
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

void to_bf16(std::size_t count, const float* x, std::uint16_t* y) {
  const D16 d16;
  each_vector(count, [&](std::size_t i, std::size_t n) {
    const auto halves = hn::TruncateTo(d16, hn::ShiftRight<16>(bf16_bits(load(x + i, n))));
    if (HWY_LIKELY(n == hn::Lanes(d16)))
      hn::StoreU(halves, d16, y + i);
    else
      hn::BlendedStore(halves, hn::FirstN(d16, n), d16, y + i);
  });
}

void round_to_bf16(std::size_t count, const float* x, float* y) {
  each_vector(count, [&](std::size_t i, std::size_t n) {
    store(hn::BitCast(D(), bf16_bits(load(x + i, n))), y + i, n);
  });
}

const char* target() { return hwy::TargetName(HWY_TARGET); }

}  // namespace fathom::simd::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace fathom::simd {

HWY_EXPORT(rms_norm);
HWY_EXPORT(rotary);
HWY_EXPORT(write_block);
HWY_EXPORT(to_int8);
HWY_EXPORT(to_int8_groups);
HWY_EXPORT(sum_groups);
HWY_EXPORT(summarise);
HWY_EXPORT(to_bf16_tiles);
HWY_EXPORT(add);
HWY_EXPORT(softcap);
HWY_EXPORT(to_bf16);
HWY_EXPORT(round_to_bf16);
HWY_EXPORT(target);

std::string target_name() { return HWY_DYNAMIC_DISPATCH(target)(); }

void rms_norm(std::size_t rows, std::size_t width, const float* x, const float* gain, float eps, float* y) {
  HWY_DYNAMIC_DISPATCH(rms_norm)(rows, width, x, gain, eps, y);
}
void rotary(std::size_t rows, std::size_t heads, std::size_t head_dim, const std::int64_t* positions,
            const float* table, float* x, std::size_t stride) {
  HWY_DYNAMIC_DISPATCH(rotary)(rows, heads, head_dim, positions, table, x, stride);
}
float to_int8(std::size_t width, std::size_t padded, const float* x, std::int8_t* y) {
  return HWY_DYNAMIC_DISPATCH(to_int8)(width, padded, x, y);
}
void to_int8_groups(std::size_t width, std::size_t padded, std::size_t group, const float* x, std::int8_t* y,
                    float* scales) {
  HWY_DYNAMIC_DISPATCH(to_int8_groups)(width, padded, group, x, y, scales);
}
void sum_groups(std::size_t groups, std::size_t size, const std::int8_t* row, std::int32_t* sums) {
  HWY_DYNAMIC_DISPATCH(sum_groups)(groups, size, row, sums);
}
PieceSummary summarise(std::size_t count, float cap, float* y) {
  return HWY_DYNAMIC_DISPATCH(summarise)(count, cap, y);
}
void to_bf16_tiles(std::size_t width, std::size_t padded, const float* x, std::uint16_t* y) {
  HWY_DYNAMIC_DISPATCH(to_bf16_tiles)(width, padded, x, y);
}
void add(std::size_t count, const float* x, float* y) { HWY_DYNAMIC_DISPATCH(add)(count, x, y); }
void softcap(std::size_t count, float c, float* x) { HWY_DYNAMIC_DISPATCH(softcap)(count, c, x); }
void to_bf16(std::size_t count, const float* x, std::uint16_t* y) {
  HWY_DYNAMIC_DISPATCH(to_bf16)(count, x, y);
}
void round_to_bf16(std::size_t count, const float* x, float* y) {
  HWY_DYNAMIC_DISPATCH(round_to_bf16)(count, x, y);
}

}  // namespace fathom::simd

namespace fathom {

void write_block(const PackedMatrix& weight, const Destination& to, std::int64_t row, std::int64_t rows,
                 std::int64_t first, std::int64_t count, const float* block) {
  using namespace simd;
  HWY_DYNAMIC_DISPATCH(write_block)(weight, to, row, rows, first, count, block);
}

}  // namespace fathom
#endif
