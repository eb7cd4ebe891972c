#include "train/ops/kernel_linear.h"

#include <algorithm>
#include <numeric>
#include <vector>

#include "kernels/multiply.h"
#include "train/kernels/row_kernels.h"

namespace fathom {
namespace {

HalfRows half_rows(const at::Tensor& rows) {
  return {static_cast<const std::uint16_t*>(rows.data_ptr()), rows.size(1)};
}

// Results of a micro-batch are larger than the caches; written as usual each line would be read first, from
// rows that are far apart, and the products would take twice as long.
Destination destination(const at::Tensor& rows, const at::Tensor& addend) {
  return {.y = static_cast<std::byte*>(rows.data_ptr()),
          .type = type_of(rows),
          .stride = rows.size(1),
          .addend = addend.defined() ? addend.data_ptr<float>() : nullptr,
          .past_caches = true};
}

// Rows whose gradients of weights are one product. More would come from memory too often: 1 MB holds 128
// columns of 4,096 rows, and for each such block all inputs come by, 4.7 MB of 576. Steps of 4,096 tokens at
// once became 4 to 8 % shorter.
constexpr std::int64_t gradient_rows = 2'048;

}  // namespace

at::Tensor KernelGroup::in_type(const at::Tensor& dy, at::ScalarType type) const {
  if (dy.scalar_type() != at::kFloat || type != at::kBFloat16) return dy.to(type);
  at::Tensor rounded = at::empty_like(dy, dy.options().dtype(type));
  round_values(dy.numel(), dy.data_ptr<float>(), static_cast<std::uint16_t*>(rounded.data_ptr()));
  return rounded;
}

at::Tensor KernelGroup::product(const at::Tensor& x, const at::Tensor& sum) const {
  if (x.scalar_type() != at::kBFloat16) return LinearGroup::product(x, sum);
  at::Tensor y = at::empty({x.size(0), out()}, sum.defined() ? sum.options() : x.options());
  multiply(packed_.ahead(), x.size(0), half_rows(x), destination(y, sum));
  return y;
}

at::Tensor KernelGroup::product_back(const at::Tensor& dy) const {
  if (dy.scalar_type() != at::kBFloat16) return LinearGroup::product_back(dy);
  const PackedMatrix& weights = packed_.back();
  at::Tensor dx = at::empty({dy.size(0), weights.out}, dy.options());
  multiply(weights, dy.size(0), half_rows(dy), destination(dx, {}));
  return dx;
}

void KernelGroup::add_weight_gradients(const at::Tensor& x, const at::Tensor& dy) const {
  if (x.scalar_type() != at::kBFloat16) return LinearGroup::add_weight_gradients(x, dy);
  thread_local PackedMatrix inputs;
  const auto trainable = [](const Parameter* weight) { return weight->trainable(); };
  if (std::ranges::none_of(weights(), trainable)) return;
  for (std::int64_t row = 0; row < x.size(0); row += gradient_rows) {
    const std::int64_t count = std::min(gradient_rows, x.size(0) - row);
    const DenseMatrix rows = dense(x.narrow(0, row, count));
    pack_columns({&rows, 1}, inputs);
    const std::uint16_t* own = half_rows(dy).data + row * dy.size(1);
    for (const Parameter* weight : weights()) {
      if (weight->trainable()) {
        weight->squares = weight_gradient(inputs, own, dy.size(1), weight->rows(), !weight->spent,
                                          weight->gradient.data_ptr<float>());
        weight->spent = false;
      }
      own += weight->rows();
    }
  }
}

std::optional<double> weight_gradient(const PackedMatrix& x, const std::uint16_t* dy, std::int64_t stride,
                                      std::int64_t out, bool accumulate, float* gradient) {
  std::vector<float> squares(static_cast<std::size_t>(
      accumulate ? 0 : (out + rows_of_squares - 1) / rows_of_squares * panel_outputs));
  multiply(x, out, {dy, stride, /*turned=*/true},
           {.y = reinterpret_cast<std::byte*>(gradient),
            .stride = x.out,
            .accumulate = accumulate,
            .past_caches = !accumulate,
            .squares = accumulate ? nullptr : squares.data()});
  if (accumulate) return {};
  return std::accumulate(squares.begin(), squares.end(), 0.0);
}

}  // namespace fathom
