#include "train/way_back.h"

#include <torch/csrc/autograd/custom_function.h>

#include <utility>

namespace fathom {
namespace {

using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

struct Holder : torch::CustomClassHolder {
  explicit Holder(WayBack closure) : way_back(std::move(closure)) {}
  WayBack way_back;
};

struct ClosureFunction : torch::autograd::Function<ClosureFunction> {
  // By pointer: of tensors that are passed as such, autograd would take y for an input.
  static at::Tensor forward(AutogradContext* context, at::TensorList inputs, const at::Tensor* y,
                            WayBack* way_back) {
    context->saved_data["way_back"] =
        c10::IValue::make_capsule(c10::make_intrusive<Holder>(std::move(*way_back)));
    context->saved_data["inputs"] = static_cast<std::int64_t>(inputs.size());
    return *y;
  }

  static variable_list backward(AutogradContext* context, const variable_list& gradients) {
    auto& holder = static_cast<Holder&>(*context->saved_data["way_back"].toCapsule());
    variable_list result = holder.way_back(gradients[0].contiguous());
    holder.way_back = nullptr;  // gives back what it holds
    result.resize(static_cast<std::size_t>(context->saved_data["inputs"].toInt()) + 2);
    return result;
  }
};

}  // namespace

at::Tensor with_way_back(const at::Tensor& y, const std::vector<at::Tensor>& inputs, WayBack way_back) {
  return ClosureFunction::apply(at::TensorList(inputs), &y, &way_back);
}

}  // namespace fathom
