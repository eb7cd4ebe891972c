#include "train/adamw.h"

#include <ATen/core/grad_mode.h>

#include <cmath>
#include <cstring>

#include "base/error.h"
#include "train/optimiser_kernels.h"

namespace fathom {

namespace {

std::span<float> values_of(const at::Tensor& tensor) {
  return {tensor.data_ptr<float>(), static_cast<std::size_t>(tensor.numel())};
}

}  // namespace

AdamW::AdamW(std::map<std::string, Parameter>& parameters, const OptimiserOptions& options)
    : options_(options) {
  const at::NoGradGuard no_grad;
  for (auto& [name, parameter] : parameters) {
    if (!parameter.trainable()) continue;
    entries_.push_back({.name = name,
                        .parameter = &parameter,
                        .average = at::zeros_like(parameter.gradient),
                        .square = at::zeros_like(parameter.gradient),
                        .weight_decay = parameter.values.dim() >= 2 ? options.weight_decay : 0});
  }
}

std::int64_t AdamW::trainable() const {
  std::int64_t count = 0;
  for (const Entry& entry : entries_) count += entry.average.numel();
  return count;
}

double AdamW::gradient_norm() const {
  double squares = 0;
  for (const Entry& entry : entries_) squares += sum_of_squares(values_of(entry.parameter->gradient));
  return std::sqrt(squares);
}

void AdamW::step(double learning_rate, double norm) {
  ++steps_;
  const auto count = static_cast<double>(steps_);
  const bool clips = options_.clip > 0 && norm > options_.clip;
  for (const Entry& entry : entries_) {
    const AdamWStep step{.learning_rate = static_cast<float>(learning_rate),
                         .beta1 = static_cast<float>(options_.beta1),
                         .beta2 = static_cast<float>(options_.beta2),
                         .epsilon = static_cast<float>(options_.epsilon),
                         .weight_decay = static_cast<float>(entry.weight_decay),
                         .correction1 = static_cast<float>(1 - std::pow(options_.beta1, count)),
                         .correction2 = static_cast<float>(1 - std::pow(options_.beta2, count)),
                         .gradient_scale = clips ? static_cast<float>(options_.clip / norm) : 1};
    Parameter& parameter = *entry.parameter;
    adamw_update(step, values_of(parameter.values), values_of(parameter.gradient), values_of(entry.average),
                 values_of(entry.square));
    ++parameter.updates;
  }
}

void AdamW::discard() {
  for (const Entry& entry : entries_) entry.parameter->gradient.zero_();
}

template <typename Visit>
void AdamW::each_tensor(const Visit& visit) const {
  for (const Entry& entry : entries_) {
    visit("weight/" + entry.name, entry.parameter->values);
    visit("exp_avg/" + entry.name, entry.average);
    visit("exp_avg_sq/" + entry.name, entry.square);
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
  steps_ = steps;
  discard();
  for (const Entry& entry : entries_) ++entry.parameter->updates;
}

}  // namespace fathom
