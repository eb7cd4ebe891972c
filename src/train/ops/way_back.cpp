#include "train/ops/way_back.h"

#include <torch/csrc/autograd/custom_function.h>

#include <utility>

namespace fathom {
namespace {

using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

struct Holder : torch::CustomClassHolder {
  explicit Holder(WayBackOfAll closure) : way_back(std::move(closure)) {}
  WayBackOfAll way_back;
};

struct ClosureFunction : torch::autograd::Function<ClosureFunction> {
  // By pointer: of tensors that are passed as such, autograd would take y for an input.
  static variable_list forward(AutogradContext* context, at::TensorList inputs,
                               const std::vector<at::Tensor>* ys, WayBackOfAll* way_back) {
    context->set_materialize_grads(false);
    context->saved_data["way_back"] =
        c10::IValue::make_capsule(c10::make_intrusive<Holder>(std::move(*way_back)));
    context->saved_data["inputs"] = static_cast<std::int64_t>(inputs.size());
    return *ys;
  }

  static variable_list backward(AutogradContext* context, const variable_list& gradients) {
    auto& holder = static_cast<Holder&>(*context->saved_data["way_back"].toCapsule());
    variable_list contiguous;
    for (const at::Tensor& gradient : gradients)
      contiguous.push_back(gradient.defined() ? gradient.contiguous() : gradient);
    variable_list result = holder.way_back(contiguous);
    holder.way_back = nullptr;  // gives back what it holds
    result.resize(static_cast<std::size_t>(context->saved_data["inputs"].toInt()) + 2);
    return result;
  }
};

}  // namespace

std::vector<at::Tensor> with_way_back(const std::vector<at::Tensor>& ys,
                                      const std::vector<at::Tensor>& inputs, WayBackOfAll way_back) {
  return ClosureFunction::apply(at::TensorList(inputs), &ys, &way_back);
}

at::Tensor with_way_back(const at::Tensor& y, const std::vector<at::Tensor>& inputs, WayBack way_back) {
  return with_way_back(
             std::vector{y}, inputs,
             [way_back = std::move(way_back)](const variable_list& dy) { return way_back(dy.front()); })
      .front();
}

}  // namespace fathom
