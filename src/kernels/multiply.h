// Products of bf16 matrices in memory with packed ones, for training: thousands of rows, a weight's gradient,
// a head's. What the runtime's `linear` (backend.h) is for rows of a prompt and packed layers.
#pragma once

#include <cstdint>

#include "kernels/packed_matrix.h"
#include "kernels/product.h"

namespace fathom {

/// Rows of bf16, `stride` elements from one to the next; or columns, so far from one element to the next.
struct HalfRows {
  const std::uint16_t* data = nullptr;
  std::int64_t stride = 0;
  bool turned = false;  ///< columns: they are turned a block at a time, in the cache

  HalfRows from(std::int64_t row) const { return {data + row * (turned ? 1 : stride), stride, turned}; }
};

/// Writes (or adds, as `to` says) x[rows, in] Wᵀ for the outputs of `panels`, on all threads. An output is
/// the same to the last bit whatever the number of threads.
void multiply(const PackedMatrix& weight, Range panels, std::int64_t rows, HalfRows x, const Destination& to);

inline void multiply(const PackedMatrix& weight, std::int64_t rows, HalfRows x, const Destination& to) {
  multiply(weight, {0, weight.panels()}, rows, x, to);
}

/// The same on the calling thread alone, for matrices that stay in its cache; y[rows, out].
void multiply_here(const PackedMatrix& weight, std::int64_t rows, HalfRows x, const Destination& to);

}  // namespace fathom
