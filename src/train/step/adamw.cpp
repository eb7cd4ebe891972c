#include "train/step/adamw.h"

#include <algorithm>
#include <cmath>
#include <memory>
#include <utility>

#include "base/error.h"
#include "kernels/repack.h"

namespace fathom {

namespace {

at::Tensor part_of(const at::Tensor& tensor, const Buckets::Share& share) {
  return tensor.detach().view(-1).narrow(0, share.first, share.count);
}

/// A float32 tensor for a checkpoint, which shares the values if they lie in host memory.
Tensor view_of(const at::Tensor& values) {
  auto owner = std::make_shared<at::Tensor>(values.detach().cpu());
  Tensor view;
  view.shape = values.sizes().vec();
  view.data = {static_cast<const std::byte*>(owner->const_data_ptr()), owner->nbytes()};
  view.owner = std::move(owner);
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
void take(const Tensor& saved, std::int64_t first, const at::Tensor& values) {
  const std::byte* from = saved.data.data() + static_cast<std::size_t>(first) * sizeof(float);
  values.detach().copy_(at::from_blob(const_cast<std::byte*>(from), values.sizes(), at::kFloat));
}

/// The parts of at most a million values each, of whole tiles of packed weights: a task of some 2 ms.
std::vector<AdamWPart> pieces(const AdamWPart& whole) {
  const std::int64_t columns = std::max<std::int64_t>(whole.columns, 1),
                     rows = whole.values.numel() / columns;
  const std::int64_t together = std::max<std::int64_t>((1 << 20) / columns / 32 * 32, 32);
  if (rows <= together) return {whole};
  std::vector<AdamWPart> result;
  for (std::int64_t first = 0; first < rows; first += together) {
    const std::int64_t count = std::min(together, rows - first);
    AdamWPart piece = whole;
    for (at::Tensor* values : {&piece.values, &piece.gradient, &piece.average, &piece.square}) {
      *values = values->narrow(0, first * columns, count * columns);
    }
    if (whole.changed) {
      piece.changed = [tell = whole.changed, first](MatrixPart part) {
        part.row += first;
        tell(part);
      };
    }
    result.push_back(std::move(piece));
  }
  return result;
}

}  // namespace

AdamW::AdamW(std::map<std::string, Parameter>& parameters, const OptimiserOptions& options,
             const Buckets& buckets, const Operations& ops)
    : options_(options), buckets_(buckets), ops_(ops) {
  const at::TensorOptions floats = at::device(ops.device()).dtype(at::kFloat);
  for (auto& [name, parameter] : parameters) {
    if (!parameter.trainable()) continue;
    const Buckets::Share& share = buckets.share(name);
    entries_.push_back({.name = name,
                        .parameter = &parameter,
                        .average = at::zeros({share.count}, floats),
                        .square = at::zeros({share.count}, floats),
                        .share = share,
                        .weight_decay = parameter.values.dim() >= 2 ? options.weight_decay : 0,
                        .first_visit = buckets.first_visit(name)});
  }
  std::ranges::stable_sort(entries_, {}, &Entry::first_visit);
}

double AdamW::gradient_norm() const {
  std::vector<at::Tensor> others;
  double squares = 0;
  for (const Entry& entry : entries_) {
    if (!entry.parameter->spent && entry.parameter->squares) {
      squares += *entry.parameter->squares;
    } else {
      others.push_back(entry.parameter->gradient_sum());
    }
  }
  return std::sqrt(squares + std::pow(ops_.norm(others), 2));
}

void AdamW::begin_step(double learning_rate, double norm) {
  finish();
  const bool clips = options_.clip > 0 && norm > options_.clip;
  const AdamWUpdate update{
      .learning_rate = learning_rate, .gradient_scale = clips ? options_.clip / norm : 1, .number = ++steps_};
  if (ops_.device().is_cpu() && !buckets_.sharded()) {
    begin_tasks(update, parts());
  } else {
    ops_.adamw(options_, update, parts());
    buckets_.share_values();
  }
  discard();
}

/// What an update has to do, of each entry.
std::vector<AdamWPart> AdamW::parts() {
  std::vector<AdamWPart> result;
  for (const Entry& entry : entries_) {
    Parameter& parameter = *entry.parameter;
    ++parameter.updates;
    // Where shares are exchanged afterwards, values change once more.
    const bool followed = parameter.follower != nullptr && !buckets_.sharded();
    result.push_back({.values = part_of(parameter.values, entry.share),
                      .gradient = part_of(parameter.gradient_sum(), entry.share),
                      .average = entry.average,
                      .square = entry.square,
                      .weight_decay = entry.weight_decay,
                      .columns = followed ? parameter.values.size(1) : 0,
                      .changed = followed ? parameter.follower->follow(parameter) : nullptr});
  }
  return result;
}

void AdamW::begin_tasks(const AdamWUpdate& update, std::vector<AdamWPart> parts) {
  std::vector<std::function<void()>> tasks;
  for (std::size_t i = 0; i < parts.size(); ++i) {
    for (AdamWPart& piece : pieces(parts[i])) {
      tasks.emplace_back(
          [this, update, own = std::vector{std::move(piece)}] { ops_.adamw(options_, update, own); });
    }
    entries_[i].tasks = tasks.size();
  }
  background_.begin(std::move(tasks));
}

void AdamW::finish(std::int64_t visit) const {
  const auto after = std::ranges::upper_bound(entries_, visit, {}, &Entry::first_visit);
  if (after != entries_.begin()) background_.finish(std::prev(after)->tasks);
}

void AdamW::discard() {
  for (const Entry& entry : entries_) entry.parameter->spent = true;
}

std::vector<std::pair<std::string, Tensor>> AdamW::state() const {
  finish();
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
  finish();
  // All checks first: a checkpoint that is found wanting leaves nothing half restored.
  for (const Entry& entry : entries_) {
    for (const char* prefix : {"weight/", "exp_avg/", "exp_avg_sq/"}) {
      check(state, prefix + entry.name, entry.parameter->values, file);
    }
  }
  for (const Entry& entry : entries_) {
    take(state.at("weight/" + entry.name), 0, entry.parameter->values);
    take(state.at("exp_avg/" + entry.name), entry.share.first, entry.average);
    take(state.at("exp_avg_sq/" + entry.name), entry.share.first, entry.square);
    ++entry.parameter->updates;
  }
  steps_ = steps;
  discard();
}

}  // namespace fathom
