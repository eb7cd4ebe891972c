#include "train/adamw.h"

#include <ATen/core/grad_mode.h>

#include <cmath>
#include <cstring>
#include <memory>

#include "base/error.h"
#include "train/optimiser_kernels.h"

namespace fathom {

namespace {

std::span<float> part_of(const at::Tensor& tensor, const Buckets::Share& share) {
  return values_of(tensor).subspan(static_cast<std::size_t>(share.first),
                                   static_cast<std::size_t>(share.count));
}

/// A float32 tensor for a checkpoint, which shares the values.
Tensor view_of(const at::Tensor& values) {
  Tensor view;
  view.shape = values.sizes().vec();
  view.data = std::as_bytes(values_of(values));
  view.owner = std::make_shared<at::Tensor>(values);
  return view;
}

void check(const TensorMap& state, const std::string& name, const at::Tensor& values,
           const std::string& file) {
  const auto found = state.find(name);
  if (found == state.end()) fail("{}: tensor '{}' is missing", file, name);
  if (found->second.dtype != DType::f32 || found->second.shape != values.sizes().vec()) {
    fail("{}: tensor '{}' is {} {}, expected F32 {}", file, name, dtype_name(found->second.dtype),
         to_string(found->second.shape), to_string(values.sizes().vec()));
  }
}

/// Fills `values`, which begin at number `first` of the saved ones.
void take(const Tensor& saved, std::int64_t first, std::span<float> values) {
  std::memcpy(values.data(), saved.data.data() + static_cast<std::size_t>(first) * sizeof(float),
              values.size_bytes());
}

}  // namespace

AdamW::AdamW(std::map<std::string, Parameter>& parameters, const OptimiserOptions& options,
             const Buckets& buckets)
    : options_(options), buckets_(buckets) {
  const at::NoGradGuard no_grad;
  for (auto& [name, parameter] : parameters) {
    if (!parameter.trainable()) continue;
    const Buckets::Share& share = buckets.share(name);
    entries_.push_back({.name = name,
                        .parameter = &parameter,
                        .average = at::zeros({share.count}, at::kFloat),
                        .square = at::zeros({share.count}, at::kFloat),
                        .share = share,
                        .weight_decay = parameter.values.dim() >= 2 ? options.weight_decay : 0});
  }
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
    adamw_update(step, part_of(parameter.values, entry.share), part_of(parameter.gradient, entry.share),
                 values_of(entry.average), values_of(entry.square));
    ++parameter.updates;
  }
  if (!buckets_.sharded()) return;
  discard();  // the gradients of the others' shares
  buckets_.share_values();
}

void AdamW::discard() {
  for (const Entry& entry : entries_) entry.parameter->gradient.zero_();
}

std::vector<std::pair<std::string, Tensor>> AdamW::state() const {
  std::vector<std::pair<std::string, Tensor>> result;
  for (const Entry& entry : entries_) {
    const at::Tensor& values = entry.parameter->values;
    result.emplace_back("weight/" + entry.name, view_of(values));
    for (const auto& [prefix, own] : {std::pair("exp_avg/", entry.average), {"exp_avg_sq/", entry.square}}) {
      const at::Tensor all =
          buckets_.sharded() ? buckets_.whole(own, entry.share, values.sizes()) : own.view(values.sizes());
      if (all.defined()) result.emplace_back(prefix + entry.name, view_of(all));
    }
  }
  return result;
}

void AdamW::restore(const TensorMap& state, std::int64_t steps, const std::string& file) {
  const at::NoGradGuard no_grad;
  // All checks first: a checkpoint that is found wanting leaves nothing half restored.
  for (const Entry& entry : entries_) {
    for (const char* prefix : {"weight/", "exp_avg/", "exp_avg_sq/"}) {
      check(state, prefix + entry.name, entry.parameter->values, file);
    }
  }
  for (const Entry& entry : entries_) {
    take(state.at("weight/" + entry.name), 0, values_of(entry.parameter->values));
    take(state.at("exp_avg/" + entry.name), entry.share.first, values_of(entry.average));
    take(state.at("exp_avg_sq/" + entry.name), entry.share.first, values_of(entry.square));
    ++entry.parameter->updates;
  }
  steps_ = steps;
  discard();
}

}  // namespace fathom
