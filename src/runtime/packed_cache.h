// A large model's packed weights in a file, so that its next start maps them and packs nothing. All processes
// that run the model then share one copy of them, which lies in the system's cache of files.
//
// A file's name is a digest of what its content follows from: which bytes of which files in which state the
// tensors are, the types, the layout. It is beside the matrices' types and sizes at the file's beginning,
// with a digest of these: what does not fit to the last byte is packed and written anew. The matrices
// themselves, whose every bit stands for some weight, are not checked: that would take as long as packing. A
// file is flushed to the disk before it gets its name.
#pragma once

#include <cstdint>
#include <filesystem>
#include <memory>
#include <span>
#include <vector>

#include "kernels/backend.h"

namespace fathom {

/// A weight of a model and where it goes once it is packed.
struct WeightToPack {
  std::unique_ptr<PackedLinear>* packed = nullptr;
  std::vector<LinearPart> parts;
  bool gated = false;  ///< the parts are a gate and an up projection
  Compute compute = Compute::f32;
};

struct PackedCache {
  std::filesystem::path folder = {};         ///< empty: nothing is read or written
  double least_seconds = 1;                  ///< what is packed in less time is not kept
  std::int64_t most_bytes = 20'000'000'000;  ///< in the folder; files that were not used for longest go first
};

/// What verbs that run a model as it is use: the folder that FATHOM_CACHE names ("off": none), otherwise
/// fathom/ in XDG_CACHE_HOME or ~/.cache.
PackedCache user_cache();

/// Packs the weights, whose tensors' pages are then given back, or views them in the cache's file. That is
/// written after packing if this took long, every tensor lies in a file, and the disk keeps twice the size
/// free; a note on standard error says so, or why it failed. Throws Interrupted, which leaves no part of a
/// file; nothing else about the cache is an error.
void pack_or_view(std::span<const WeightToPack> weights, const Backend& backend, const PackedCache& cache);

}  // namespace fathom
