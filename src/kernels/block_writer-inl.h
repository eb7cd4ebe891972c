// What becomes of products' sums: scales, bias, residual add and gated activation, a row at a time. Included
// once for each instruction set, and by the kernels that do it between their own instructions: hence without
// external names.

#if defined(FATHOM_BLOCK_WRITER_INL_H) == defined(HWY_TARGET_TOGGLE)
#ifdef FATHOM_BLOCK_WRITER_INL_H
#undef FATHOM_BLOCK_WRITER_INL_H
#else
#define FATHOM_BLOCK_WRITER_INL_H
#endif

#include <hwy/contrib/math/math-inl.h>
#include <hwy/highway.h>

#include <cstddef>
#include <cstdint>

#include "kernels/product.h"
#include "kernels/vectors-inl.h"

HWY_BEFORE_NAMESPACE();
namespace fathom::simd::HWY_NAMESPACE {
namespace {

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
// way. For results that are Rounded to bf16, by up to 2e-3 of themselves, 1.4e-4 is near enough, in 8
// instructions instead of 20: while tiles are in flight vectors of 512 bits have one port, and gated
// activations took as long as the products.
template <bool Rounded>
HWY_INLINE Vector sigmoid(Vector v) {
  const D d;
#if HWY_TARGET == HWY_AVX3
  if constexpr (Rounded) {
    const Vector power = coarse_exp2(hn::Mul(v, hn::Set(d, -1.44269504F)));
    return hn::ApproximateReciprocal(hn::Add(hn::Set(d, 1.0F), power));
  }
#endif
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

template <bool Rounded>
struct Silu {
  HWY_INLINE Vector operator()(Vector v) const { return hn::Mul(v, sigmoid<Rounded>(v)); }
};
template <bool Rounded>
struct Gelu {
  HWY_INLINE Vector operator()(Vector v) const {
    const D d;
    const Vector half = hn::Set(d, 0.5F);
    return hn::Mul(v, hn::MulAdd(half, erf(hn::Mul(v, hn::Set(d, 0.70710678F))), half));
  }
};
// x (1 + tanh u) / 2 is x sigmoid(2 u), with u = sqrt(2 / pi) (x + 0.044715 x^3).
template <bool Rounded>
struct GeluTanh {
  HWY_INLINE Vector operator()(Vector v) const {
    const D d;
    const Vector cubic = hn::MulAdd(hn::Mul(hn::Set(d, 0.044715F), v), hn::Mul(v, v), v);
    return hn::Mul(v, sigmoid<Rounded>(hn::Mul(hn::Set(d, 1.5957691F), cubic)));
  }
};
template <bool Rounded>
struct Relu {
  HWY_INLINE Vector operator()(Vector v) const { return hn::Max(v, hn::Zero(D())); }
};

// How a panel's sums become values: times the scales, plus the bias.
template <bool Integers>
class PanelReader {
 public:
  PanelReader() = default;
  HWY_INLINE PanelReader(const PackedMatrix& weight, const Block& block, std::int64_t panel)
      : scales_(Integers ? weight.scales(weight.panel(panel)) : nullptr),
        bias_(weight.bias.empty() ? nullptr : weight.bias.data() + panel * panel_outputs),
        sums_(static_cast<const std::byte*>(block.sums) + (panel - block.first) * row_bytes),
        stride_(block.panels * row_bytes) {}

  // Outputs from `i` on of the block's row `r`, whose scale is `scale`.
  HWY_INLINE Vector value(std::int64_t r, Vector scale, std::size_t i) const {
    const D d;
    const std::byte* sums = sums_ + r * stride_;
    Vector value;
    if constexpr (Integers) {
      const hn::RebindToSigned<D> d32;
      const auto whole = hn::LoadU(d32, reinterpret_cast<const std::int32_t*>(sums) + i);
      value = hn::Mul(hn::Mul(hn::ConvertTo(d, whole), scale), hn::LoadU(d, scales_ + i));
    } else {
      value = hn::LoadU(d, reinterpret_cast<const float*>(sums) + i);
    }
    return bias_ == nullptr ? value : hn::Add(value, hn::LoadU(d, bias_ + i));
  }

 private:
  static constexpr std::int64_t row_bytes = panel_outputs * 4;
  const float* scales_ = nullptr;
  const float* bias_ = nullptr;
  const std::byte* sums_ = nullptr;
  std::int64_t stride_ = 0;
};

HWY_INLINE std::size_t outputs_of_panel(std::int64_t outputs, std::int64_t first) {
  return static_cast<std::size_t>(outputs - first < panel_outputs ? outputs - first : panel_outputs);
}

// each_vector for the outputs of a panel, mostly 16.
template <class Body>
HWY_INLINE void each_of_panel(std::size_t outputs, Body body) {
  if (HWY_UNLIKELY(outputs != static_cast<std::size_t>(panel_outputs))) return each_vector(outputs, body);
  const std::size_t lanes = hn::Lanes(D());
  for (std::size_t i = 0; i < static_cast<std::size_t>(panel_outputs); i += lanes) body(i, lanes);
}

// A panel of gates and the ups' after it, to rows of activation(gate) * up.
template <bool IntegerSums, template <bool> class Activation, class T>
class GatedWriter {
 public:
  static constexpr bool integers = IntegerSums;
  GatedWriter() = default;
  HWY_INLINE GatedWriter(const PackedMatrix& weight, const Destination& to, const Block& block,
                         std::int64_t panel)
      : gates_(weight, block, panel),
        ups_(weight, block, panel + 1),
        row_scales_(integers ? block.row_scales + block.row : nullptr),
        half_(weight.out / 2),
        stride_(to.stride) {
    const std::int64_t output = panel / 2 * panel_outputs;
    outputs_ = outputs_of_panel(half_, output);
    y_ = reinterpret_cast<typename T::Element*>(to.y) + block.row * stride_ + output;
    if (to.addend != nullptr) addend_ = to.addend + block.row * weight.out + output;
  }

  // Row `r` of the block.
  HWY_INLINE void write(std::int64_t r) const {
    const Vector scale = hn::Set(D(), integers ? row_scales_[r] : 1.0F);
    each_of_panel(outputs_, [&](std::size_t i, std::size_t n) {
      Vector gate = gates_.value(r, scale, i), up = ups_.value(r, scale, i);
      if (addend_ != nullptr) {
        const float* addend = addend_ + r * 2 * half_ + i;
        gate = hn::Add(gate, load(addend, n));
        up = hn::Add(up, load(addend + half_, n));
      }
      T::put(hn::Mul(Activation<T::rounded>()(gate), up), y_ + r * stride_ + i, n);
    });
  }

 private:
  PanelReader<integers> gates_, ups_;
  const float* row_scales_ = nullptr;
  const float* addend_ = nullptr;
  typename T::Element* y_ = nullptr;
  std::int64_t half_ = 0, stride_ = 0;
  std::size_t outputs_ = 0;
};

// Two panels, or the last one.
template <bool IntegerSums, class T>
class PlainWriter {
 public:
  static constexpr bool integers = IntegerSums;
  PlainWriter() = default;
  HWY_INLINE PlainWriter(const PackedMatrix& weight, const Destination& to, const Block& block,
                         std::int64_t panel)
      : row_scales_(integers ? block.row_scales + block.row : nullptr), stride_(to.stride) {
    y_ = reinterpret_cast<typename T::Element*>(to.y) + block.row * stride_ + panel * panel_outputs -
         to.first_output;
    if (to.accumulate) {
      added_ = y_;
    } else if constexpr (!T::rounded) {
      if (to.addend != nullptr) added_ = to.addend + (y_ - reinterpret_cast<const float*>(to.y));
    }
    squares_ = to.squares;
    row_ = block.row;
    first_ = PanelReader<integers>(weight, block, panel);
    outputs_ = outputs_of_panel(weight.out, panel * panel_outputs);
    if (panel + 1 == block.first + block.panels) return;
    second_ = PanelReader<integers>(weight, block, panel + 1);
    more_outputs_ = outputs_of_panel(weight.out, (panel + 1) * panel_outputs);
    const std::size_t address = reinterpret_cast<std::size_t>(y_), apart = stride_ * sizeof(*y_);
    streams_ = to.past_caches && more_outputs_ == panel_outputs && (address | apart) % 64 == 0;
  }

  HWY_INLINE void write(std::int64_t r) const {
    const Vector scale = hn::Set(D(), integers ? row_scales_[r] : 1.0F);
    auto* y = y_ + r * stride_;
    put(first_, r, scale, outputs_, y);
    put(second_, r, scale, more_outputs_, y + panel_outputs);
  }

 private:
  HWY_INLINE void put(const PanelReader<integers>& reader, std::int64_t r, Vector scale, std::size_t outputs,
                      typename T::Element* y) const {
    each_of_panel(outputs, [&](std::size_t i, std::size_t n) {
      Vector v = reader.value(r, scale, i);
      if (added_ != nullptr) v = hn::Add(v, load(added_ + (y - y_) + i, n));
      streams_ ? T::stream(v, y + i) : T::put(v, y + i, n);
      if constexpr (!T::rounded) {
        if (squares_ == nullptr) return;
        float* squares = squares_ + (row_ + r) / rows_of_squares * panel_outputs + i;
        store(hn::MulAdd(v, v, load(squares, n)), squares, n);
      }
    });
  }

  PanelReader<integers> first_, second_;
  std::size_t outputs_ = 0, more_outputs_ = 0;
  const float* row_scales_ = nullptr;
  typename T::Element* y_ = nullptr;
  std::int64_t stride_ = 0;
  const typename T::Element* added_ = nullptr;
  bool streams_ = false;
  float* squares_ = nullptr;
  std::int64_t row_ = 0;
};

// Calls run with the writer for this product.
template <bool Integers, class T, class Run>
HWY_INLINE void with_writer_to(const PackedMatrix& weight, const Destination& to, Run run) {
  if (!weight.gated) return run(PlainWriter<Integers, T>());
  switch (to.activation) {
    case GateActivation::silu:
      return run(GatedWriter<Integers, Silu, T>());
    case GateActivation::gelu:
      return run(GatedWriter<Integers, Gelu, T>());
    case GateActivation::gelu_tanh:
      return run(GatedWriter<Integers, GeluTanh, T>());
    case GateActivation::relu:
      return run(GatedWriter<Integers, Relu, T>());
  }
}

// The same; Native: the machine has AMX.
template <bool Integers, bool Native, class Run>
HWY_INLINE void with_writer(const PackedMatrix& weight, const Destination& to, Run run) {
  to.type == Compute::f32 ? with_writer_to<Integers, Float>(weight, to, run)
                          : with_writer_to<Integers, Bf16<Native>>(weight, to, run);
}

// All rows and panels of a block.
template <class Writer>
HWY_INLINE void write_all(const PackedMatrix& weight, const Destination& to, const Block& block) {
  for (std::int64_t panel = block.first; panel < block.first + block.panels; panel += 2) {
    const Writer writer(weight, to, block, panel);
    for (std::int64_t r = 0; r < block.rows; ++r) writer.write(r);
  }
}

}  // namespace
}  // namespace fathom::simd::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#endif
