#include "train/kernels/optimiser_kernels.h"

#include <algorithm>
#include <cmath>
#include <numeric>
#include <vector>

#include "base/threads.h"
#include "kernels/targets.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "train/kernels/optimiser_kernels.cpp"
#include <hwy/foreach_target.h>
// After foreach_target, as Highway wants it.
#include "kernels/vectors-inl.h"

HWY_BEFORE_NAMESPACE();
namespace fathom::simd::HWY_NAMESPACE {

void adamw_part(const AdamWStep& step, std::size_t count, float* weight, const float* gradient,
                float* average, float* square) {
  const D d;
  const Vector scale = hn::Set(d, step.gradient_scale), keep = hn::Set(d, step.beta1),
               take = hn::Set(d, 1 - step.beta1), keep_square = hn::Set(d, step.beta2),
               take_square = hn::Set(d, 1 - step.beta2), epsilon = hn::Set(d, step.epsilon),
               decay = hn::Set(d, 1 - step.learning_rate * step.weight_decay),
               pace = hn::Set(d, step.learning_rate / step.correction1),
               size = hn::Set(d, 1 / std::sqrt(step.correction2));
  each_vector(count, [&](std::size_t i, std::size_t n) {
    const Vector g = hn::Mul(load(gradient + i, n), scale);
    const Vector m = hn::MulAdd(keep, load(average + i, n), hn::Mul(take, g));
    const Vector v = hn::MulAdd(keep_square, load(square + i, n), hn::Mul(take_square, hn::Mul(g, g)));
    const Vector change = hn::Div(hn::Mul(pace, m), hn::MulAdd(hn::Sqrt(v), size, epsilon));
    store(hn::Sub(hn::Mul(load(weight + i, n), decay), change), weight + i, n);
    store(m, average + i, n);
    store(v, square + i, n);
  });
}

// Of so few values that float32 sums, one for each lane, are exact enough.
double squares_part(std::size_t count, const float* values) {
  const D d;
  Vector sum = hn::Zero(d);
  each_vector(count, [&](std::size_t i, std::size_t n) {
    const Vector v = load(values + i, n);
    sum = hn::MulAdd(v, v, sum);
  });
  return hn::GetLane(hn::SumOfLanes(d, sum));
}

}  // namespace fathom::simd::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace fathom {
namespace simd {
HWY_EXPORT(adamw_part);
HWY_EXPORT(squares_part);
}  // namespace simd

namespace {
constexpr std::int64_t piece = 4096;

template <typename Body>
void each_piece(std::size_t size, const Body& body) {
  const auto count = static_cast<std::int64_t>(size);
  parallel_for((count + piece - 1) / piece, [&](std::int64_t i) {
    body(i, i * piece, static_cast<std::size_t>(std::min(piece, count - i * piece)));
  });
}
}  // namespace

void adamw_update(const AdamWStep& step, std::span<float> weight, std::span<const float> gradient,
                  std::span<float> average, std::span<float> square) {
  using namespace simd;
  each_piece(weight.size(), [&](std::int64_t, std::int64_t first, std::size_t count) {
    HWY_DYNAMIC_DISPATCH(adamw_part)
    (step, count, weight.data() + first, gradient.data() + first, average.data() + first,
     square.data() + first);
  });
}

void adamw_update(const AdamWStep& step, std::span<float> weight, std::span<const float> gradient,
                  std::span<float> average, std::span<float> square, std::int64_t columns,
                  const std::function<void(const MatrixPart&)>& changed) {
  using namespace simd;
  // 200 KB of weights, of which `changed` finds all in the L2 cache beside as much of three others.
  constexpr std::int64_t rows_together = 32, columns_together = 1'536;
  const std::int64_t rows = std::ssize(weight) / columns,
                     across = (columns + columns_together - 1) / columns_together;
  parallel_for((rows + rows_together - 1) / rows_together * across, [&](std::int64_t i) {
    const std::int64_t row = i / across * rows_together, column = i % across * columns_together;
    const MatrixPart part{row, column, std::min(rows_together, rows - row),
                          std::min(columns_together, columns - column)};
    for (std::int64_t r = row; r < row + part.rows; ++r) {
      const std::int64_t first = r * columns + column;
      HWY_DYNAMIC_DISPATCH(adamw_part)
      (step, static_cast<std::size_t>(part.columns), weight.data() + first, gradient.data() + first,
       average.data() + first, square.data() + first);
    }
    changed(part);
  });
}

double sum_of_squares(std::span<const float> values) {
  using namespace simd;
  std::vector<double> sums((values.size() + piece - 1) / piece);
  each_piece(values.size(), [&](std::int64_t i, std::int64_t first, std::size_t count) {
    sums[static_cast<std::size_t>(i)] = HWY_DYNAMIC_DISPATCH(squares_part)(count, values.data() + first);
  });
  return std::accumulate(sums.begin(), sums.end(), 0.0);
}

}  // namespace fathom
#endif  // HWY_ONCE
