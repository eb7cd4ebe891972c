#include "train/adamw.h"

#include <ATen/core/grad_mode.h>

#include <cmath>
#include <cstring>

#include "base/error.h"

namespace fathom {

AdamW::AdamW(std::map<std::string, Parameter>& parameters, const OptimiserOptions& options)
    : options_(options) {
  const at::NoGradGuard no_grad;
  groups_[0].weight_decay = options.weight_decay;
  for (auto& [name, parameter] : parameters) {
    if (!parameter.trainable()) continue;
    Group& group = groups_[parameter.values.dim() >= 2 ? 0 : 1];
    group.names.push_back(name);
    group.parameters.push_back(&parameter);
    group.masters.push_back(parameter.values.detach());
    group.gradients.push_back(parameter.gradient);
    group.averages.push_back(at::zeros_like(parameter.gradient));
    group.squares.push_back(at::zeros_like(parameter.gradient));
    group.steps.push_back(at::zeros({}, at::kFloat));
  }
}

std::int64_t AdamW::trainable() const {
  std::int64_t count = 0;
  for (const Group& group : groups_) {
    for (const at::Tensor& master : group.masters) count += master.numel();
  }
  return count;
}

double AdamW::gradient_norm() const {
  double squares = 0;
  for (const Group& group : groups_) {
    for (const at::Tensor& gradient : group.gradients) {
      const double norm = gradient.norm().item<double>();
      squares += norm * norm;
    }
  }
  return std::sqrt(squares);
}

void AdamW::step(double learning_rate, double norm) {
  const at::NoGradGuard no_grad;
  std::optional<at::Tensor>
      divisor;  // torch divides the gradients by its loss scale: the clipping goes there
  if (options_.clip > 0 && norm > options_.clip) divisor = at::full({}, norm / options_.clip, at::kFloat);
  for (Group& group : groups_) {
    if (group.masters.empty()) continue;
    for (at::Tensor& count : group.steps) count += 1;
    at::_fused_adamw_(group.masters, group.gradients, group.averages, group.squares, {}, group.steps,
                      learning_rate, options_.beta1, options_.beta2, group.weight_decay, options_.epsilon,
                      /*amsgrad=*/false, /*maximize=*/false, divisor);
  }
  discard();
  count_update();
}

void AdamW::discard() {
  for (Group& group : groups_) {
    for (at::Tensor& gradient : group.gradients) gradient.zero_();
  }
}

void AdamW::count_update() {
  for (Group& group : groups_) {
    for (Parameter* parameter : group.parameters) ++parameter->updates;
  }
}

template <typename Visit>
void AdamW::each_tensor(const Visit& visit) const {
  for (const Group& group : groups_) {
    for (std::size_t i = 0; i < group.names.size(); ++i) {
      visit("weight/" + group.names[i], group.masters[i]);
      visit("exp_avg/" + group.names[i], group.averages[i]);
      visit("exp_avg_sq/" + group.names[i], group.squares[i]);
    }
  }
}

std::vector<std::pair<std::string, Tensor>> AdamW::state() const {
  std::vector<std::pair<std::string, Tensor>> result;
  each_tensor([&](const std::string& name, const at::Tensor& values) {
    Tensor view;
    view.shape = values.sizes().vec();
    view.data = std::as_bytes(std::span(values.data_ptr<float>(), static_cast<std::size_t>(values.numel())));
    result.emplace_back(name, view);
  });
  return result;
}

void AdamW::restore(const TensorMap& state, std::int64_t steps, const std::string& file) {
  const at::NoGradGuard no_grad;
  // All checks first: a checkpoint that is found wanting leaves nothing half restored.
  each_tensor([&](const std::string& name, const at::Tensor& values) {
    const auto found = state.find(name);
    if (found == state.end()) fail("{}: tensor '{}' is missing", file, name);
    if (found->second.dtype != DType::f32 || found->second.shape != values.sizes().vec()) {
      fail("{}: tensor '{}' is {} {}, expected F32 {}", file, name, dtype_name(found->second.dtype),
           to_string(found->second.shape), to_string(values.sizes().vec()));
    }
  });
  each_tensor([&](const std::string& name, const at::Tensor& values) {
    const Tensor& saved = state.find(name)->second;
    std::memcpy(values.data_ptr<float>(), saved.data.data(), saved.data.size());
  });
  for (Group& group : groups_) {
    for (at::Tensor& count : group.steps) count.fill_(static_cast<double>(steps));
  }
  discard();
  count_update();
}

}  // namespace fathom
