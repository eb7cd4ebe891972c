#include "train/kernel_head.h"

#include <algorithm>

#include "kernels/multiply.h"
#include "kernels/repack.h"
#include "train/kernel_linear.h"
#include "train/kernel_ops.h"

namespace fathom {
namespace {

// Entries of the vocabulary in a product of the way back: 256 rows of them are 1 MB, half of an L2 cache.
constexpr std::int64_t piece = 2'048;

HalfRows half_rows(const at::Tensor& rows, std::int64_t first) {
  return {static_cast<const std::uint16_t*>(rows.data_ptr()) + first, rows.stride(0)};
}

LogitRows logit_rows(const at::Tensor& logits) { return {rows_of(logits), logits.stride(0)}; }

}  // namespace

void KernelHead::pack() {
  const at::Tensor& values = weight().values;
  if (packed_updates_ == weight().updates) return;
  packed_updates_ = weight().updates;
  const std::int64_t vocab = values.size(0), width = values.size(1);
  const bool halves = values.scalar_type() == at::kBFloat16;
  const auto rows = [&](std::int64_t first, std::int64_t count) -> DenseMatrix {
    const auto* data = static_cast<const std::byte*>(values.data_ptr()) + first * width * (halves ? 2 : 4);
    return {halves ? Compute::bf16 : Compute::f32, data, count, width, width};
  };
  const DenseMatrix all = rows(0, vocab);
  pack_rows({&all, 1}, ahead_);
  back_.resize(static_cast<std::size_t>((vocab + piece - 1) / piece));
  for (std::size_t i = 0; i < back_.size(); ++i) {
    const std::int64_t first = static_cast<std::int64_t>(i) * piece;
    const DenseMatrix part = rows(first, std::min(piece, vocab - first));
    pack_columns({&part, 1}, back_[i]);
  }
}

at::Tensor KernelHead::logits_memory(std::int64_t rows, const at::Tensor& x) {
  // An odd number of lines from row to row: rows of a tile must not share one set of the L1 cache.
  const std::int64_t stride = ((vocab() + 31) / 32 | 1) * 32;
  logits_.reserve(static_cast<std::size_t>(rows * stride) * x.element_size());
  return at::from_blob(logits_.as<std::byte>(), {rows, vocab()}, {stride, 1}, x.options());
}

void KernelHead::logits(const at::Tensor& x, const at::Tensor& logits) {
  if (x.scalar_type() != at::kBFloat16) return Head::logits(x, logits);
  pack();
  multiply(ahead_, x.size(0), half_rows(x, 0),
           {.y = static_cast<std::byte*>(logits.data_ptr()),
            .type = logits.scalar_type() == at::kFloat ? Compute::f32 : Compute::bf16,
            .stride = logits.stride(0),
            .past_caches = true});
}

void KernelHead::backward(const at::Tensor& x, const at::Tensor& d, at::Tensor& dx) {
  if (x.scalar_type() != at::kBFloat16) return Head::backward(x, d, dx);
  const std::int64_t rows = x.size(0), width = x.size(1);
  if (weight().trainable()) {
    const DenseMatrix inputs = {Compute::bf16, x.data_ptr(), rows, width, width};
    pack_columns({&inputs, 1}, inputs_);
  }
  const at::Tensor sum = at::empty({rows, width}, at::kFloat);
  for (std::size_t i = 0; i < back_.size(); ++i) {
    const std::int64_t first = static_cast<std::int64_t>(i) * piece;
    const HalfRows own = half_rows(d, first);
    multiply(back_[i], rows, own,
             {.y = static_cast<std::byte*>(sum.data_ptr()), .stride = width, .accumulate = i > 0});
    if (weight().trainable()) {
      weight_gradient(inputs_, own.data, own.stride, back_[i].in, !weight().spent,
                      weight().gradient.data_ptr<float>() + first * width);
    }
  }
  weight().spent = false;
  dx.copy_(sum);
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
