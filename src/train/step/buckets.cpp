#include "train/step/buckets.h"

#include <ATen/core/grad_mode.h>

#include <algorithm>
#include <limits>

#include "model/checkpoint.h"

namespace fathom {
namespace {

// Embedding, head and final norm, which an exit on the way may read, too: complete only when the whole
// backward pass is.
constexpr std::int64_t outside = -1;

std::int64_t first_visit(const DepthPlan& plan, const std::string& name) {
  for (std::int64_t v = 0; v < plan.depth(); ++v) {
    const Visit& visit = plan.visits[static_cast<std::size_t>(v)];
    const bool adapts = visit.adapter >= 0 && name.starts_with(adapter_name(visit.adapter, ""));
    if (adapts || name.starts_with(layer_name(visit.layer, ""))) return v;
  }
  return outside;
}

}  // namespace

Buckets::Buckets(std::map<std::string, Parameter>& parameters, const DepthPlan& plan, const Ranks& ranks,
                 bool sharded, std::int64_t size)
    : ranks_(ranks), sharded_(sharded && ranks.count() > 1) {
  std::map<std::int64_t, std::vector<std::pair<std::string, Parameter*>>, std::greater<>> by_visit;
  for (auto& [name, parameter] : parameters) {
    if (!parameter.trainable()) continue;
    shares_[name] = {0, parameter.gradient.numel()};
    visits_[name] = fathom::first_visit(plan, name);
    by_visit[visits_[name]].emplace_back(name, &parameter);
  }
  if (ranks.count() == 1) return;
  std::vector<std::pair<std::string, Parameter*>> members;
  std::int64_t count = 0;
  for (const auto& [visit, own] : by_visit) {
    for (const auto& member : own) {
      members.push_back(member);
      count += member.second->gradient.numel();
      if (count < size) continue;
      close(members, visit);
      count = 0;
    }
  }
  if (!members.empty()) close(members, by_visit.rbegin()->first);
}

void Buckets::close(std::vector<std::pair<std::string, Parameter*>>& members, std::int64_t visit) {
  const at::NoGradGuard no_grad;
  // Whole cache lines for each rank.
  const std::int64_t unit = 16 * ranks_.count();
  std::int64_t count = 0;
  for (const auto& [name, parameter] : members) count += parameter->gradient.numel();
  count = (count + unit - 1) / unit * unit;
  const at::TensorOptions as_gradients = members.front().second->gradient.options();
  Bucket bucket{.gradients = at::zeros({count}, as_gradients), .values = {}, .visit = visit};
  if (sharded_) bucket.values = at::zeros({count}, as_gradients);
  const std::int64_t part = count / ranks_.count(), begin = ranks_.rank() * part;
  const auto moved = [](const at::Tensor& from, const at::Tensor& bucket_values, std::int64_t first) {
    at::Tensor place = bucket_values.narrow(0, first, from.numel()).view(from.sizes());
    place.copy_(from);
    return place;
  };
  std::int64_t first = 0;
  for (const auto& [name, parameter] : members) {
    const std::int64_t own = parameter->gradient.numel();
    bucket.members.push_back(parameter);
    parameter->gradient = moved(parameter->gradient, bucket.gradients, first);
    if (sharded_) {
      parameter->values = moved(parameter->values, bucket.values, first).detach().set_requires_grad(true);
      const std::int64_t from = std::clamp<std::int64_t>(begin - first, 0, own);
      shares_[name] = {from, std::clamp<std::int64_t>(begin + part - first, 0, own) - from};
    }
    first += own;
  }
  buckets_.push_back(std::move(bucket));
  members.clear();
}

void Buckets::begin() { begun_ = true; }

void Buckets::complete(std::int64_t visit) {
  if (!begun_) return;
  for (; summed_ < buckets_.size() && buckets_[summed_].visit >= visit; ++summed_) {
    const Bucket& bucket = buckets_[summed_];
    for (const Parameter* member : bucket.members) member->gradient_sum();  // what got none counts as zeros
    ranks_.begin_sum(bucket.gradients);
  }
}

void Buckets::finish() {
  begun_ = true;
  complete(outside);
  ranks_.finish_sums("the gradients of a step");
  begun_ = false;
  summed_ = 0;
}

void Buckets::share_values() const {
  if (!sharded_) return;
  const at::NoGradGuard no_grad;
  for (const Bucket& bucket : buckets_) ranks_.share(bucket.values, "the new weights");
}

at::Tensor Buckets::whole(const at::Tensor& own, const Share& share, at::IntArrayRef shape) const {
  at::Tensor result = at::zeros(shape, own.options());
  result.view(-1).narrow(0, share.first, share.count).copy_(own);
  ranks_.begin_sum(result);  // with zeros where it is another's
  ranks_.finish_sums("the optimiser's state");
  return ranks_.is_first() ? result : at::Tensor();
}

}  // namespace fathom
