#include "runtime/model.h"

#include <cstdio>

namespace fathom {

Model::Model(const Checkpoint& checkpoint, Compute type, const PackedCache& cache, bool traced)
    : config(checkpoint.config),
      source(checkpoint.source.string()),
      compute(type),
      trace(traced),
      weights(pack_weights(checkpoint, *make_backend(), type, cache)) {}

std::unique_ptr<Backend> Model::make_backend() const {
  return trace ? make_tracing_backend(make_cpu_backend(), stderr) : make_cpu_backend();
}

}  // namespace fathom
