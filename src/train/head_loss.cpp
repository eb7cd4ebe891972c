#include "train/head_loss.h"

#include <ATen/core/grad_mode.h>

#include <algorithm>
#include <vector>

#include "kernels/multiply.h"
#include "kernels/repack.h"
#include "train/ops.h"

namespace fathom {
namespace {

// Logits of a chunk: 50 MB in bfloat16, 100 MB of float32 for the teacher. The head's weight and its gradient
// (113 MB for SmolLM2) come by once a chunk: 512 rows make that a fifth of what the products take.
constexpr std::int64_t chunk_logits = 25'200'000;
// Entries of the vocabulary in a product of the way back: 256 rows of them are 1 MB, half of an L2 cache.
constexpr std::int64_t piece = 2'048;

std::int64_t chunk_rows(std::int64_t rows, std::int64_t vocab) {
  return std::clamp<std::int64_t>(chunk_logits / vocab, 1, rows);
}

HalfRows half_rows(const at::Tensor& rows, std::int64_t first) {
  return {static_cast<const std::uint16_t*>(rows.data_ptr()) + first, rows.stride(0)};
}

}  // namespace

void Head::pack() {
  const at::Tensor& values = weight_->values;
  if (packed_updates_ == weight_->updates) return;
  packed_updates_ = weight_->updates;
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

at::Tensor Head::logits_memory(std::int64_t rows, const at::Tensor& x) {
  const std::int64_t vocab = weight_->values.size(0);
  // An odd number of lines from row to row: rows of a tile must not share one set of the L1 cache.
  const std::int64_t stride = ((vocab + 31) / 32 | 1) * 32;
  logits_.reserve(static_cast<std::size_t>(rows * stride) * x.element_size());
  return at::from_blob(logits_.as<std::byte>(), {rows, vocab}, {stride, 1}, x.options());
}

void Head::logits(const at::Tensor& x, const at::Tensor& logits) {
  if (x.scalar_type() != at::kBFloat16) {
    at::Tensor(logits).copy_(at::linear(x, weight_->values.to(x.scalar_type())));
    return;
  }
  pack();
  multiply(ahead_, x.size(0), half_rows(x, 0),
           {.y = static_cast<std::byte*>(logits.data_ptr()),
            .type = logits.scalar_type() == at::kFloat ? Compute::f32 : Compute::bf16,
            .stride = logits.stride(0),
            .past_caches = true});
}

void Head::backward(const at::Tensor& x, const at::Tensor& d, at::Tensor& dx) {
  if (x.scalar_type() != at::kBFloat16) {
    at::mm_out(dx, d, weight_->values.to(x.scalar_type()));
    if (weight_->trainable()) at::Tensor(weight_->gradient).addmm_(d.t(), x);
    return;
  }
  const std::int64_t rows = x.size(0), width = x.size(1);
  if (weight_->trainable()) {
    const DenseMatrix inputs = {Compute::bf16, x.data_ptr(), rows, width, width};
    pack_columns({&inputs, 1}, inputs_);
  }
  const at::Tensor sum = at::empty({rows, width}, at::kFloat);
  for (std::size_t i = 0; i < back_.size(); ++i) {
    const std::int64_t first = static_cast<std::int64_t>(i) * piece;
    const HalfRows own = half_rows(d, first);
    multiply(back_[i], rows, own,
             {.y = static_cast<std::byte*>(sum.data_ptr()), .stride = width, .accumulate = i > 0});
    if (weight_->trainable()) {
      add_weight_gradient(inputs_, own.data, own.stride, back_[i].in,
                          weight_->gradient.data_ptr<float>() + first * width);
    }
  }
  dx.copy_(sum);
}

TeacherLogits head_logits(Head& head, const at::Tensor& hidden, float softcap) {
  return [&head, hidden, softcap](std::int64_t first, std::int64_t rows, float* logits) {
    const at::Tensor to = at::from_blob(logits, {rows, head.weight().values.size(0)}, at::kFloat);
    head.logits(hidden.narrow(0, first, rows), to);
    if (softcap != 0) at::Tensor(to).div_(softcap).tanh_().mul_(softcap);
  };
}

LossSums head_loss(const at::Tensor& hidden, Head& head, const LogitsLoss& loss,
                   at::Tensor& hidden_gradient) {
  const at::NoGradGuard no_grad;
  const std::int64_t rows = hidden.size(0), chunk = chunk_rows(rows, head.weight().values.size(0));
  hidden_gradient = at::empty_like(hidden);
  const at::Tensor all_logits = head.logits_memory(chunk, hidden);
  LossSums sums;
  for (std::int64_t first = 0; first < rows; first += chunk) {
    const std::int64_t count = std::min(chunk, rows - first);
    const at::Tensor inputs = hidden.narrow(0, first, count);
    const at::Tensor logits = all_logits.narrow(0, 0, count);
    head.logits(inputs, logits);
    sums += loss(first, logits);
    at::Tensor gradient = hidden_gradient.narrow(0, first, count);
    head.backward(inputs, logits, gradient);
  }
  return sums;
}

LossSums head_loss(const at::Tensor& hidden, Head& head, std::span<const std::int32_t> labels,
                   const LossWeights& weights, const TeacherLogits& teacher, at::Tensor& hidden_gradient) {
  const std::int64_t vocab = head.weight().values.size(0);
  const bool distil = weights.divergence != 0;
  std::vector<float> target(distil ? chunk_rows(hidden.size(0), vocab) * vocab : 0);
  const auto loss = [&](std::int64_t first, const at::Tensor& logits) {
    const std::int64_t count = logits.size(0);
    if (distil) teacher(first, count, target.data());
    return vocabulary_loss(count, vocab, weights, rows_of(logits), logits.stride(0),
                           distil ? target.data() : nullptr, labels.subspan(first, count));
  };
  return head_loss(hidden, head, loss, hidden_gradient);
}

}  // namespace fathom
