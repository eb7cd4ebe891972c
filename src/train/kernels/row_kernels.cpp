#include "train/kernels/row_kernels.h"

#include <algorithm>
#include <cmath>
#include <vector>

#include "kernels/targets.h"
#include "train/kernels/row_parts.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "train/kernels/row_kernels.cpp"
#include <hwy/foreach_target.h>
// After foreach_target, as Highway wants it.
#include <hwy/cache_control.h>

#include "train/kernels/rows-inl.h"

HWY_BEFORE_NAMESPACE();
namespace fathom::simd::HWY_NAMESPACE {

void rms_norm_part(std::int64_t first, std::int64_t last, std::int64_t width, Values x, const float* gain,
                   float eps, Values y, float* inverse_rms) {
  const D d;
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
                            const float* gain, const float* inverse_rms, const float* more, Values dx,
                            float* gain_gradient) {
  const D d;
  const auto lanes = static_cast<std::int64_t>(hn::Lanes(d));
  std::vector<float> input(padded(width)), slope(padded(width)), gains(padded(width)), added(padded(width));
  std::copy(gain, gain + width, gains.begin());
  for (std::int64_t r = first; r < last; ++r) {
    load_row(x, r, width, 0, input.data());
    load_row(dy, r, width, 0, slope.data());
    if (more != nullptr) std::copy_n(more + r * width, width, added.begin());
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
      hn::StoreU(hn::MulAdd(value, inverse, hn::LoadU(d, &added[i])), d, &slope[i]);
    }
    store_row(slope.data(), r, width, true, dx);
  }
  hwy::FlushStream();
}

void round_part(std::int64_t count, const float* x, std::uint16_t* y) {
  with_bf16([&](auto type) {
    each_vector(static_cast<std::size_t>(count),
                [&](std::size_t i, std::size_t n) { stream<decltype(type)>(load(x + i, n), y + i, n); });
  });
  hwy::FlushStream();
}

void rotate_part(std::int64_t first, std::int64_t last, std::int64_t width, std::int64_t heads,
                 std::int64_t positions, std::int64_t head_dim, const float* cosines, const float* sines,
                 float direction, Values x, Values y) {
  const auto half = static_cast<std::size_t>(head_dim / 2);
  const Vector way = hn::Set(D(), direction);
  with_type(x.bf16, [&](auto type) {
    using Type = decltype(type);
    using T = typename Type::Element;
    for (std::int64_t r = first; r < last; ++r) {
      const T* from = static_cast<const T*>(x.data) + r * width;
      T* to = static_cast<T*>(y.data) + r * width;
      const T* const end = from + heads * head_dim;
      const float *cosine = cosines + r % positions * half, *sine = sines + r % positions * half;
      for (; from < end; from += head_dim, to += head_dim) {
        each_vector(half, [&](std::size_t i, std::size_t n) {
          const Vector a = load(from + i, n), b = load(from + half + i, n);
          const Vector c = load(cosine + i, n), s = hn::Mul(load(sine + i, n), way);
          stream<Type>(hn::NegMulAdd(b, s, hn::Mul(a, c)), to + i, n);
          stream<Type>(hn::MulAdd(a, s, hn::Mul(b, c)), to + half + i, n);
        });
      }
      each_vector(static_cast<std::size_t>(width - heads * head_dim),
                  [&](std::size_t i, std::size_t n) { stream<Type>(load(from + i, n), to + i, n); });
    }
  });
  hwy::FlushStream();
}

}  // namespace fathom::simd::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace fathom {
namespace simd {
HWY_EXPORT(rms_norm_part);
HWY_EXPORT(rms_norm_backward_part);
HWY_EXPORT(rotate_part);
HWY_EXPORT(round_part);
}  // namespace simd

void rms_norm(std::int64_t rows, std::int64_t width, Values x, const float* gain, float eps, Values y,
              float* inverse_rms) {
  using namespace simd;
  in_parts(rows, width, [&](std::int64_t, std::int64_t first, std::int64_t last) {
    HWY_DYNAMIC_DISPATCH(rms_norm_part)(first, last, width, x, gain, eps, y, inverse_rms);
  });
}

void rms_norm_backward(std::int64_t rows, std::int64_t width, Values dy, Values x, const float* gain,
                       const float* inverse_rms, const float* more, Values dx, float* gain_gradient) {
  using namespace simd;
  const std::int64_t stride = width + 64;  // room for the padding
  std::vector<float> sums(gain_gradient != nullptr ? thread_count() * stride : 0);
  in_parts(rows, width, [&](std::int64_t part, std::int64_t first, std::int64_t last) {
    float* own = gain_gradient != nullptr ? &sums[part * stride] : nullptr;
    HWY_DYNAMIC_DISPATCH(rms_norm_backward_part)
    (first, last, width, dy, x, gain, inverse_rms, more, dx, own);
  });
  if (gain_gradient == nullptr) return;
  for (std::int64_t part = 0; part < thread_count(); ++part) {
    for (std::int64_t i = 0; i < width; ++i) gain_gradient[i] += sums[part * stride + i];
  }
}

void round_values(std::int64_t count, const float* x, std::uint16_t* y) {
  using namespace simd;
  constexpr std::int64_t piece = 4096;
  in_parts((count + piece - 1) / piece, piece, [&](std::int64_t, std::int64_t first, std::int64_t last) {
    const std::int64_t begin = first * piece, end = std::min(last * piece, count);
    HWY_DYNAMIC_DISPATCH(round_part)(end - begin, x + begin, y + begin);
  });
}

void rotate(std::int64_t rows, std::int64_t width, std::int64_t heads, std::int64_t positions,
            std::int64_t head_dim, const float* cosines, const float* sines, float direction, Values x,
            Values y) {
  using namespace simd;
  in_parts(rows, width, [&](std::int64_t, std::int64_t first, std::int64_t last) {
    HWY_DYNAMIC_DISPATCH(rotate_part)
    (first, last, width, heads, positions, head_dim, cosines, sines, direction, x, y);
  });
}

}  // namespace fathom
#endif  // HWY_ONCE
