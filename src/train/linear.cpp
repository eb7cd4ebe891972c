#include "train/linear.h"

#include <ATen/core/grad_mode.h>

#include <numeric>
#include <utility>

#include "kernels/aligned.h"
#include "kernels/multiply.h"
#include "train/way_back.h"

namespace fathom {
namespace {

Compute type_of(const at::Tensor& tensor) {
  return tensor.scalar_type() == at::kBFloat16 ? Compute::bf16 : Compute::f32;
}

DenseMatrix dense(const at::Tensor& matrix) {
  return {type_of(matrix), matrix.data_ptr(), matrix.size(0), matrix.size(1), matrix.size(1)};
}

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

at::Tensor float_values(const Parameter& weight) {
  if (!weight.four_bit) return weight.values;
  at::Tensor result = at::empty({weight.rows(), weight.four_bit->columns()}, at::kFloat);
  weight.four_bit->decode(result.data_ptr<float>());
  return result;
}

}  // namespace

LinearGroup::LinearGroup(std::vector<const Parameter*> weights, std::vector<const Parameter*> biases)
    : weights_(std::move(weights)), biases_(std::move(biases)) {
  for (const Parameter* weight : weights_) out_ += weight->rows();
}

std::vector<at::Tensor> LinearGroup::values() const {
  std::vector<at::Tensor> result;
  for (const auto& parameters : {weights_, biases_}) {
    for (const Parameter* parameter : parameters) {
      if (parameter != nullptr && !parameter->four_bit) result.push_back(parameter->values);
    }
  }
  return result;
}

/// Those in 4 bits are decoded into memory that all groups share, until the next call.
std::vector<DenseMatrix> LinearGroup::dense_weights() const {
  thread_local AlignedBuffer decoded;
  std::int64_t size = 0, first = 0;
  for (const Parameter* weight : weights_) size += weight->four_bit ? weight->elements() : 0;
  decoded.reserve(static_cast<std::size_t>(2 * size));
  std::vector<DenseMatrix> result;
  for (const Parameter* weight : weights_) {
    if (!weight->four_bit) {
      result.push_back(dense(weight->values));
      continue;
    }
    std::uint16_t* to = decoded.as<std::uint16_t>() + first;
    weight->four_bit->decode(to);
    const std::int64_t columns = weight->four_bit->columns();
    result.push_back({Compute::bf16, to, weight->rows(), columns, columns});
    first += weight->elements();
  }
  return result;
}

/// Of what is used once between two changes, as in steps of one micro-batch, in memory that all groups share;
/// so are weights in 4 bits. From the second use on the group has its own.
const PackedMatrix& LinearGroup::packed(Packed& own,
                                        void (*pack)(std::span<const DenseMatrix>, PackedMatrix&)) const {
  thread_local PackedMatrix shared;
  const std::int64_t updates = weights_.front()->updates;
  own.reused = own.reused || own.last_use == updates;
  own.last_use = updates;
  if (weights_.front()->four_bit || !own.reused) {
    pack(dense_weights(), shared);
    return shared;
  }
  if (own.updates != updates) pack(dense_weights(), own.matrix);
  own.updates = updates;
  return own.matrix;
}

at::Tensor LinearGroup::forward(const at::Tensor& x, const at::Tensor& sum) const {
  const at::NoGradGuard no_grad;
  at::Tensor y = at::empty({x.size(0), out_}, sum.defined() ? sum.options() : x.options());
  std::int64_t first = 0;
  if (x.scalar_type() == at::kBFloat16) {
    multiply(packed(ahead_, pack_rows), x.size(0), half_rows(x), destination(y, sum));
  } else {
    sum.defined() ? y.copy_(sum) : y.zero_();
    for (const Parameter* weight : weights_) {
      y.narrow(1, first, weight->rows()).addmm_(x, float_values(*weight).t());
      first += weight->rows();
    }
  }
  first = 0;
  for (std::size_t i = 0; i < weights_.size(); ++i) {
    const std::int64_t count = weights_[i]->rows();
    if (biases_[i] != nullptr) y.narrow(1, first, count).add_(biases_[i]->values);
    first += count;
  }
  return y;
}

at::Tensor LinearGroup::backward(const at::Tensor& x, const at::Tensor& gradient, bool wants_dx) const {
  const at::Tensor dy = gradient.to(x.scalar_type());
  add_gradients(x, dy);
  if (!wants_dx) return {};
  if (x.scalar_type() != at::kBFloat16) {
    at::Tensor dx = at::zeros_like(x);
    std::int64_t first = 0;
    for (const Parameter* weight : weights_) {
      dx.addmm_(dy.narrow(1, first, weight->rows()), float_values(*weight));
      first += weight->rows();
    }
    return dx;
  }
  at::Tensor dx = at::empty_like(x);
  multiply(packed(back_, pack_columns), x.size(0), half_rows(dy), destination(dx, {}));
  return dx;
}

void LinearGroup::add_gradients(const at::Tensor& x, const at::Tensor& dy) const {
  thread_local PackedMatrix inputs;
  bool packed = false;
  std::int64_t first = 0;
  for (std::size_t i = 0; i < weights_.size(); ++i) {
    const std::int64_t count = weights_[i]->rows();
    const at::Tensor own = dy.narrow(1, first, count);
    at::Tensor total = weights_[i]->gradient;
    if (total.defined() && x.scalar_type() == at::kBFloat16) {
      const DenseMatrix rows = dense(x);
      if (!packed) pack_columns({&rows, 1}, inputs);
      packed = true;
      add_weight_gradient(inputs, half_rows(dy).data + first, dy.size(1), count, total.data_ptr<float>());
    } else if (total.defined()) {
      total.addmm_(own.t(), x);
    }
    if (biases_[i] != nullptr && biases_[i]->trainable()) {
      at::Tensor(biases_[i]->gradient).add_(own.to(at::kFloat).sum(0));
    }
    first += count;
  }
}

at::Tensor linear(const at::Tensor& x, const LinearGroup& group) {
  std::vector<at::Tensor> inputs = group.values();
  inputs.insert(inputs.begin(), x);
  return with_way_back(
      group.forward(x, {}), inputs,
      [x = x.detach(), &group, wanted = x.requires_grad()](const at::Tensor& dy) -> std::vector<at::Tensor> {
        return {group.backward(x, dy, wanted)};
      });
}

at::Tensor add_linear(const at::Tensor& h, const at::Tensor& x, const LinearGroup& group) {
  std::vector<at::Tensor> inputs = group.values();
  inputs.insert(inputs.begin(), {h, x});
  return with_way_back(
      group.forward(x, h), inputs,
      [x = x.detach(), &group, wanted = x.requires_grad()](const at::Tensor& dy) -> std::vector<at::Tensor> {
        return {dy, group.backward(x, dy, wanted)};
      });
}

void add_weight_gradient(const PackedMatrix& x, const std::uint16_t* dy, std::int64_t stride,
                         std::int64_t out, float* gradient) {
  multiply(x, out, {dy, stride, /*turned=*/true},
           {.y = reinterpret_cast<std::byte*>(gradient), .stride = x.out, .accumulate = true});
}

}  // namespace fathom
