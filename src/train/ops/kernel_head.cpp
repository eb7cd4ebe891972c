#include "train/ops/kernel_head.h"

#include <algorithm>

#include "kernels/multiply.h"
#include "kernels/repack.h"
#include "train/ops/kernel_linear.h"
#include "train/ops/kernel_ops.h"

namespace fathom {
namespace {

// Entries of the vocabulary in a product: rows of their logits' gradients are too long for a cache, and 256
// rows of so many are 1 MB, half of an L2 cache.
constexpr std::int64_t piece = 2'048;
// Those that a product goes on with from where the last one has been: of 256 rows they are 256 KB, their
// weights 590, and the sums, 590 more, stay in the cache beside them.
constexpr std::int64_t piece_back = 512;

std::int64_t pieces_of(std::int64_t vocab, std::int64_t size) { return (vocab + size - 1) / size; }

HalfRows half_rows(const at::Tensor& rows, std::int64_t first) {
  return {static_cast<const std::uint16_t*>(rows.data_ptr()) + first, rows.stride(0)};
}

LogitRows logit_rows(const at::Tensor& logits) { return {rows_of(logits), logits.stride(0)}; }

}  // namespace

KernelHead::KernelHead(const Parameter* weight, bool spares_memory)
    : Head(weight), packed_({weight}, spares_memory, {.ahead = piece, .back = piece_back}) {}

at::Tensor KernelHead::logits_memory(std::int64_t rows, const at::Tensor& x) {
  // An odd number of lines from row to row: rows of a tile must not share one set of the L1 cache.
  const std::int64_t stride = ((vocab() + 31) / 32 | 1) * 32;
  logits_.reserve(static_cast<std::size_t>(rows * stride) * x.element_size());
  return at::from_blob(logits_.as<std::byte>(), {rows, vocab()}, {stride, 1}, x.options());
}

void KernelHead::logits(const at::Tensor& x, const at::Tensor& logits) {
  if (x.scalar_type() != at::kBFloat16) return Head::logits(x, logits);
  const bool floats = logits.scalar_type() == at::kFloat;
  auto* y = static_cast<std::byte*>(logits.data_ptr());
  for (std::int64_t i = 0; i < pieces_of(vocab(), piece); ++i) {
    multiply(packed_.ahead(i), x.size(0), half_rows(x, 0),
             {.y = y + i * piece * (floats ? 4 : 2),
              .type = floats ? Compute::f32 : Compute::bf16,
              .stride = logits.stride(0),
              .past_caches = true});
  }
}

void KernelHead::backward(const at::Tensor& x, const at::Tensor& d, at::Tensor& dx) {
  if (x.scalar_type() != at::kBFloat16) return Head::backward(x, d, dx);
  const std::int64_t rows = x.size(0), width = x.size(1);
  const at::Tensor sum = at::empty({rows, width}, at::kFloat);
  for (std::int64_t i = 0; i < pieces_of(vocab(), piece_back); ++i) {
    multiply(packed_.back(i), rows, half_rows(d, i * piece_back),
             {.y = static_cast<std::byte*>(sum.data_ptr()), .stride = width, .accumulate = i > 0});
  }
  dx.copy_(sum);
  if (!weight().trainable()) return;
  const DenseMatrix inputs = dense(x);
  pack_columns({&inputs, 1}, inputs_);
  std::optional<double> squares = 0;
  for (std::int64_t first = 0; first < vocab(); first += piece) {
    const HalfRows entries = half_rows(d, first);
    const auto more = weight_gradient(inputs_, entries.data, entries.stride, std::min(piece, vocab() - first),
                                      !weight().spent, weight().gradient.data_ptr<float>() + first * width);
    squares = squares && more ? std::optional(*squares + *more) : std::nullopt;
  }
  weight().spent = false;
  weight().squares = squares;
}

LossSums KernelHead::vocabulary_loss(const LossWeights& weights, const at::Tensor& logits,
                                     const at::Tensor& teacher, std::span<const std::int32_t> labels) const {
  return fathom::vocabulary_loss(logits.size(0), logits.size(1), weights, logit_rows(logits),
                                 teacher.defined() ? logit_rows(teacher) : LogitRows(), labels);
}

LossSums KernelHead::top_k_loss(const LossWeights& weights, const at::Tensor& logits,
                                const TopTokens& teacher, std::int64_t first,
                                std::span<const std::int32_t> labels) const {
  return fathom::top_k_loss(logits.size(0), logits.size(1), weights, logit_rows(logits), teacher, first,
                            labels);
}

}  // namespace fathom
