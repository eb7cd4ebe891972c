#include "train/ops/linear.h"

#include <ATen/core/grad_mode.h>

#include <utility>

#include "train/ops/way_back.h"

namespace fathom {

at::Tensor Parameter::gradient_sum() const {
  if (spent) gradient.zero_();
  spent = false;
  squares.reset();
  return gradient;
}

at::Tensor values_in(const Parameter& parameter, at::ScalarType type) {
  return parameter.four_bit ? parameter.four_bit->decoded(type) : parameter.values.to(type);
}

at::Tensor float_product(const at::Tensor& a, const at::Tensor& b) {
  // On a CPU torch has no product that writes another type than it reads.
  if (a.is_cuda() && a.scalar_type() != at::kFloat) return at::mm(a, b, at::kFloat);
  return a.to(at::kFloat).mm(b.to(at::kFloat));
}

void add_product(const at::Tensor& sum, const at::Tensor& a, const at::Tensor& b) {
  if (sum.scalar_type() == a.scalar_type()) {
    sum.addmm_(a, b);
  } else {
    sum.add_(float_product(a, b));
  }
}

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

at::Tensor LinearGroup::forward(const at::Tensor& x, const at::Tensor& sum) const {
  const at::NoGradGuard no_grad;
  at::Tensor y = product(x, sum);
  std::int64_t first = 0;
  for (std::size_t i = 0; i < weights_.size(); ++i) {
    const std::int64_t count = weights_[i]->rows();
    if (biases_[i] != nullptr) y.narrow(1, first, count).add_(biases_[i]->values);
    first += count;
  }
  return y;
}

at::Tensor LinearGroup::backward(const at::Tensor& x, const at::Tensor& gradient, bool wants_dx) const {
  const at::Tensor dy = in_type(gradient, x.scalar_type());
  add_weight_gradients(x, dy);
  std::int64_t first = 0;
  for (std::size_t i = 0; i < weights_.size(); ++i) {
    const std::int64_t count = weights_[i]->rows();
    if (biases_[i] != nullptr && biases_[i]->trainable()) {
      biases_[i]->gradient_sum().add_(dy.narrow(1, first, count).to(at::kFloat).sum(0));
    }
    first += count;
  }
  return wants_dx ? product_back(dy) : at::Tensor();
}

at::Tensor LinearGroup::product(const at::Tensor& x, const at::Tensor& sum) const {
  at::Tensor y = sum.defined() ? sum.clone() : at::zeros({x.size(0), out_}, x.options());
  std::int64_t first = 0;
  for (const Parameter* weight : weights_) {
    add_product(y.narrow(1, first, weight->rows()), x, values_in(*weight, x.scalar_type()).t());
    first += weight->rows();
  }
  return y;
}

at::Tensor LinearGroup::product_back(const at::Tensor& dy) const {
  at::Tensor dx;
  std::int64_t first = 0;
  for (const Parameter* weight : weights_) {
    const at::Tensor own = dy.narrow(1, first, weight->rows()), values = values_in(*weight, dy.scalar_type());
    if (dx.defined()) {
      dx.addmm_(own, values);
    } else {
      dx = own.mm(values);
    }
    first += weight->rows();
  }
  return dx;
}

void LinearGroup::add_weight_gradients(const at::Tensor& x, const at::Tensor& dy) const {
  std::int64_t first = 0;
  for (const Parameter* weight : weights_) {
    if (weight->trainable()) add_product(weight->gradient_sum(), dy.narrow(1, first, weight->rows()).t(), x);
    first += weight->rows();
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

}  // namespace fathom
