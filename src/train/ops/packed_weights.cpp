#include "train/ops/packed_weights.h"

#include <algorithm>
#include <utility>

#include "kernels/aligned.h"

namespace fathom {

Compute type_of(const at::Tensor& tensor) {
  return tensor.scalar_type() == at::kBFloat16 ? Compute::bf16 : Compute::f32;
}

DenseMatrix dense(const at::Tensor& matrix) {
  return {type_of(matrix), matrix.data_ptr(), matrix.size(0), matrix.size(1), matrix.size(1)};
}

PackedWeights::PackedWeights(std::vector<const Parameter*> weights, bool spares_memory, PieceRows piece_rows)
    : weights_(std::move(weights)),
      keeps_(!spares_memory && !weights_.front()->four_bit),
      follows_(keeps_),
      ahead_{.pack = pack_rows, .repack = repack_rows, .piece_rows = piece_rows.ahead},
      back_{.pack = pack_columns, .repack = repack_columns, .piece_rows = piece_rows.back} {
  for (const Parameter* weight : weights_) {
    rows_ += weight->rows();
    follows_ = follows_ && weight->trainable() && weight->rows() % 32 == 0;
  }
  for (Form* form : {&ahead_, &back_}) form->piece_rows = std::min(form->piece_rows, rows_);
  if (!follows_) return;
  for (const Parameter* weight : weights_) weight->follower = this;
}

PackedWeights::~PackedWeights() {
  for (const Parameter* weight : weights_) {
    if (weight->follower == this) weight->follower = nullptr;
  }
}

/// Those in 4 bits are decoded into memory that all share, until the next call.
std::vector<DenseMatrix> PackedWeights::dense_weights(std::int64_t first, std::int64_t last) const {
  thread_local AlignedBuffer decoded;
  std::int64_t size = 0, taken = 0;
  for (const Parameter* weight : weights_) size += weight->four_bit ? weight->elements() : 0;
  decoded.reserve(static_cast<std::size_t>(2 * size));
  std::vector<DenseMatrix> result;
  std::int64_t row = 0;
  for (const Parameter* weight : weights_) {
    const std::int64_t begin = std::max(first - row, std::int64_t{0}),
                       end = std::min(last - row, weight->rows());
    row += weight->rows();
    if (begin >= end) continue;
    if (!weight->four_bit) {
      result.push_back(dense(weight->values.narrow(0, begin, end - begin)));
      continue;
    }
    std::uint16_t* to = decoded.as<std::uint16_t>() + taken;
    weight->four_bit->decode(to);
    const std::int64_t columns = weight->four_bit->columns();
    result.push_back({Compute::bf16, to + begin * columns, end - begin, columns, columns});
    taken += weight->elements();
  }
  return result;
}

const PackedMatrix& PackedWeights::packed(Form& form, std::int64_t piece) {
  thread_local PackedMatrix shared;
  const std::int64_t first = piece * form.piece_rows, last = std::min(first + form.piece_rows, rows_);
  if (!keeps_) {
    form.pack(dense_weights(first, last), shared);
    return shared;
  }
  form.pieces.resize(static_cast<std::size_t>((rows_ + form.piece_rows - 1) / form.piece_rows));
  auto& [matrix, updates] = form.pieces[static_cast<std::size_t>(piece)];
  if (updates != weights_.front()->updates) form.pack(dense_weights(first, last), matrix);
  updates = weights_.front()->updates;
  return matrix;
}

PartChanged PackedWeights::follow(const Parameter& weight) {
  std::int64_t first = 0;
  for (const Parameter* before : weights_) {
    if (before == &weight) break;
    first += before->rows();
  }
  // What has never been used has not been packed either.
  for (Form* form : {&ahead_, &back_}) {
    for (Piece& piece : form->pieces) piece.updates = piece.updates < 0 ? -1 : weight.updates;
  }
  return [this, first, values = dense(weight.values)](const MatrixPart& part) {
    for (Form* form : {&ahead_, &back_}) {
      if (form->pieces.empty()) continue;
      const std::int64_t number = (first + part.row) / form->piece_rows;
      Piece& piece = form->pieces[static_cast<std::size_t>(number)];
      if (piece.updates >= 0) form->repack(values, part, first - number * form->piece_rows, piece.matrix);
    }
  };
}

}  // namespace fathom
