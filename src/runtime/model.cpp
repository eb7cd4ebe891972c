#include "runtime/model.h"

#include <cstdio>

namespace fathom {
namespace {

/// Whether a matrix of a layer is of a type that `is` picks.
template <typename Is>
bool any_weight(const Checkpoint& checkpoint, Is is) {
  for (std::int64_t layer = 0; layer < checkpoint.plan.layers; ++layer)
    for (const Linear linear : all_linears)
      if (is(checkpoint.layer_tensor(layer, std::string(linear_name(linear)) + ".weight").dtype)) return true;
  return false;
}

}  // namespace

Model::Model(const Checkpoint& checkpoint, Compute type, const PackedCache& cache, bool traced)
    : config(checkpoint.config),
      source(checkpoint.source.string()),
      compute(type),
      trace(traced),
      weights(pack_weights(checkpoint, *make_backend(), type, cache)) {}

std::unique_ptr<Backend> Model::make_backend() const {
  return trace ? make_tracing_backend(make_cpu_backend(), stderr) : make_cpu_backend();
}

Compute float_compute(const Checkpoint& checkpoint) {
  if (!make_cpu_backend()->fast_bf16()) return Compute::f32;
  return any_weight(checkpoint, [](DType type) { return type == DType::f32 || type == DType::f64; })
             ? Compute::f32
             : Compute::bf16;
}

Compute own_compute(const Checkpoint& checkpoint) {
  return any_weight(checkpoint, is_quantised) ? Compute::native : float_compute(checkpoint);
}

}  // namespace fathom
