// Packing at the speed of memory, for products whose operands change all the time: a training step needs each
// weight and its transpose anew, and each matrix of activations once. pack_matrix (packed_matrix.h) takes any
// type of file and any type of weight; this takes what lies in memory, to bf16.
#pragma once

#include <cstdint>
#include <span>

#include "kernels/backend.h"
#include "kernels/packed_matrix.h"

namespace fathom {

/// A matrix in memory, float32 or bf16; `stride` elements lie between the beginnings of two rows.
struct DenseMatrix {
  Compute type = Compute::f32;
  const void* data = nullptr;
  std::int64_t rows = 0, columns = 0, stride = 0;
};

/// Packs the parts, of as many columns each, one below the other, as a weight W [rows, columns]: products
/// with it are x Wᵀ. Memory that `packed` holds is used again.
void pack_rows(std::span<const DenseMatrix> parts, PackedMatrix& packed);

/// The same as the weight's transpose: products with it are x W.
void pack_columns(std::span<const DenseMatrix> parts, PackedMatrix& packed);

/// Where a part of a matrix begins, and its size.
struct MatrixPart {
  std::int64_t row = 0, column = 0, rows = 0, columns = 0;
};

/// Packs a part of `matrix` anew, whose first row is row `row` of a weight that pack_rows or pack_columns has
/// packed, on the calling thread and past the caches: for whoever changes a weight part by part, has each in
/// its cache, and will not read it again soon. Parts begin at multiples of 32 and have 32 rows; so is `row`.
void repack_rows(const DenseMatrix& matrix, const MatrixPart& part, std::int64_t row, PackedMatrix& packed);
void repack_columns(const DenseMatrix& matrix, const MatrixPart& part, std::int64_t row,
                    PackedMatrix& packed);

/// to[column, row] = from[row, column] for a bf16 matrix. `stride` is even; a multiple of 4 KB would put all
/// rows of a tile into one set of the L1 cache.
void transpose(const DenseMatrix& from, std::uint16_t* to, std::int64_t stride);

}  // namespace fathom
