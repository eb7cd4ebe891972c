// Weights in the forms that products in bfloat16 read: W and its transpose, packed.
#pragma once

#include <cstdint>
#include <limits>
#include <span>
#include <vector>

#include "kernels/packed_matrix.h"
#include "kernels/repack.h"
#include "train/ops/linear.h"

namespace fathom {

/// Of float32 or bfloat16, as the kernels name it.
Compute type_of(const at::Tensor& tensor);

/// A matrix of either, contiguous, as packing takes it.
DenseMatrix dense(const at::Tensor& matrix);

/// Rows of W in a piece of either form, multiples of 32.
struct PieceRows {
  std::int64_t ahead = std::numeric_limits<std::int64_t>::max(), back = ahead;
};

/// Weights one below the other as one, W [rows, in]. The forms are kept from one change of the values to the
/// next, and the optimiser has them follow part by part, while what it has just written is in the cache: to
/// read 4 bytes a weight again for each form took 58 ms for SmolLM2's layers beside its own 70, to write 2
/// bytes takes 9. Where memory is spared, and of weights in 4 bits, they are made anew for each use, in
/// memory that all share.
class PackedWeights : public ValueFollower {
 public:
  /// They must outlive it.
  PackedWeights(std::vector<const Parameter*> weights, bool spares_memory, PieceRows piece_rows = {});
  ~PackedWeights() override;

  /// Piece number `piece` for products x Wᵀ, and for products with W: until the next call where they are not
  /// kept.
  const PackedMatrix& ahead(std::int64_t piece = 0) { return packed(ahead_, piece); }
  const PackedMatrix& back(std::int64_t piece = 0) { return packed(back_, piece); }

  PartChanged follow(const Parameter& weight) override;

 private:
  struct Piece {
    PackedMatrix matrix;
    std::int64_t updates = -1;  // packed after so many
  };
  struct Form {
    void (*pack)(std::span<const DenseMatrix>, PackedMatrix&);
    void (*repack)(const DenseMatrix&, const MatrixPart&, std::int64_t row, PackedMatrix&);
    std::int64_t piece_rows;
    std::vector<Piece> pieces = {};
  };
  const PackedMatrix& packed(Form& form, std::int64_t piece);
  std::vector<DenseMatrix> dense_weights(std::int64_t first, std::int64_t last) const;

  std::vector<const Parameter*> weights_;
  std::int64_t rows_ = 0;
  bool keeps_, follows_;
  Form ahead_, back_;
};

}  // namespace fathom
