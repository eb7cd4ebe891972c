#include "train/kernels/attention_tiles.h"

#include <algorithm>
#include <span>
#include <vector>

#include "kernels/aligned.h"
#include "kernels/bf16.h"
#include "kernels/isa.h"
#include "kernels/repack.h"
#include "train/kernels/attention_tiles_amx.h"
#include "train/kernels/attention_unit.h"

namespace fathom {

#if defined(__x86_64__)

namespace {

// What a thread computes with, kept from one KV head to the next.
struct Workspace {
  AlignedBuffer keys, values, turned, scores, weights, slopes, log_sums, bases, deltas, query_sums, key_sums,
      value_sums;
  PackedMatrix queries, query_columns, gradients, gradient_columns;
};

template <typename T>
T* room(AlignedBuffer& buffer, std::int64_t count) {
  buffer.reserve(static_cast<std::size_t>(count) * sizeof(T));
  return buffer.as<T>();
}

// Its positions filled up to whole steps.
class Unit : public AttentionUnit {
 public:
  Unit(const AttentionForm& form, std::int64_t index)
      : AttentionUnit(form, index),
        shape_{
            .positions = form.positions,
            .padded = (form.positions + amx::attention_step - 1) / amx::attention_step * amx::attention_step,
            .dim = form.head_dim,
            .window = form.window,
            .scale = static_cast<float>(form.scale)},
        zeros_(static_cast<std::size_t>(form.head_dim)) {}

  const amx::HeadShape& shape() const { return shape_; }

  // A copy of rows, followed by zeros.
  amx::HeadRows filled(const std::uint16_t* from, AlignedBuffer& to) const {
    std::uint16_t* rows = room<std::uint16_t>(to, shape_.padded * shape_.dim);
    for (std::int64_t r = 0; r < shape_.positions; ++r)
      std::copy_n(from + r * form().qkv_width(), shape_.dim, rows + r * shape_.dim);
    std::fill(rows + shape_.positions * shape_.dim, rows + shape_.padded * shape_.dim, std::uint16_t{0});
    return {rows, shape_.dim};
  }

  amx::HeadRows turned(const amx::HeadRows& rows, AlignedBuffer& to) const {
    const std::int64_t stride = odd_lines(shape_.padded);
    auto* columns = room<std::uint16_t>(to, shape_.dim * stride);
    transpose({Compute::bf16, rows.data, shape_.padded, shape_.dim, rows.stride}, columns, stride);
    return {columns, stride};
  }

  // Rows followed by zeros.
  const std::byte* packed(void (*pack)(std::span<const DenseMatrix>, PackedMatrix&),
                          const std::uint16_t* from, std::int64_t stride, PackedMatrix& to) const {
    const DenseMatrix parts[] = {
        {Compute::bf16, from, shape_.positions, shape_.dim, stride},
        {Compute::bf16, zeros_.data(), shape_.padded - shape_.positions, shape_.dim, 0}};
    pack({parts, 2}, to);
    return to.panel(0);
  }

 private:
  amx::HeadShape shape_;
  std::vector<std::uint16_t> zeros_;  // a row
};

}  // namespace

bool attends_by_tiles(const AttentionForm& form) {
  return native_tiles() && form.head_dim % amx::attention_step == 0;
}

void attention_by_tiles(std::int64_t sequences, const AttentionForm& form, const std::uint16_t* qkv,
                        std::uint16_t* mixed, float* log_sums) {
  each_unit<Unit>(sequences, form, [&](const Unit& unit) {
    thread_local Workspace work;
    const amx::HeadShape& shape = unit.shape();
    const amx::HeadRows keys = unit.filled(qkv + unit.key(), work.keys);
    const amx::HeadRows values = unit.filled(qkv + unit.value(), work.values);
    amx::HeadForward task = {
        .keys = keys,
        .turned_values = unit.turned(values, work.turned),
        .mixed_stride = unit.mixed_width(),
        .log_sums = room<float>(work.log_sums, shape.padded),
        .scores = room<float>(work.scores, std::max(shape.padded, shape.dim) * amx::attention_step),
        .weights = room<std::byte>(work.weights, shape.padded * amx::attention_step * 2)};
    for (std::int64_t head = unit.first_head(); head < unit.last_head(); ++head) {
      task.queries = unit.packed(pack_rows, qkv + unit.query(head), form.qkv_width(), work.queries);
      task.mixed = mixed + unit.mixed(head);
      attend(shape, task);
      for (std::int64_t r = 0; r < shape.positions; ++r)
        log_sums[unit.log_sum(head) + r * form.heads] = task.log_sums[r];
    }
  });
}

void attention_backward_by_tiles(std::int64_t sequences, const AttentionForm& form, const std::uint16_t* qkv,
                                 const std::uint16_t* mixed, const float* log_sums,
                                 const std::uint16_t* d_mixed, std::uint16_t* d_qkv) {
  each_unit<Unit>(sequences, form, [&](const Unit& unit) {
    thread_local Workspace work;
    const amx::HeadShape& shape = unit.shape();
    const std::int64_t size = shape.padded * shape.dim, width = form.qkv_width();
    const amx::HeadRows keys = unit.filled(qkv + unit.key(), work.keys);
    float* sums = room<float>(work.log_sums, shape.padded);
    amx::HeadBackward task = {
        .keys = keys,
        .values = unit.filled(qkv + unit.value(), work.values),
        .turned_keys = unit.turned(keys, work.turned),
        .log_sums = sums,
        .key_sums = room<float>(work.key_sums, size),
        .value_sums = room<float>(work.value_sums, size),
        .d_stride = width,
        .query_sums = room<float>(work.query_sums, size),
        .bases = room<float>(work.bases, shape.padded),
        .deltas = room<float>(work.deltas, shape.padded),
        .weights = room<std::uint16_t>(work.weights, amx::key_block * amx::chunk_stride),
        .slopes = room<std::uint16_t>(work.slopes, amx::key_block * amx::chunk_stride)};
    for (std::int64_t head = unit.first_head(); head < unit.last_head(); ++head) {
      const std::uint16_t *queries = qkv + unit.query(head), *gradients = d_mixed + unit.mixed(head);
      task.mixed = {mixed + unit.mixed(head), unit.mixed_width()};
      task.gradients = {gradients, unit.mixed_width()};
      task.queries = unit.packed(pack_rows, queries, width, work.queries);
      task.query_columns = unit.packed(pack_columns, queries, width, work.query_columns);
      task.packed_gradients = unit.packed(pack_rows, gradients, unit.mixed_width(), work.gradients);
      task.gradient_columns = unit.packed(pack_columns, gradients, unit.mixed_width(), work.gradient_columns);
      for (std::int64_t r = 0; r < shape.positions; ++r)
        sums[r] = log_sums[unit.log_sum(head) + r * form.heads];
      task.d_queries = d_qkv + unit.query(head);
      task.resumes = head > unit.first_head();
      attend_backward(shape, task);
    }
    round_rows(shape.positions, shape.dim, task.key_sums, d_qkv + unit.key(), width);
    round_rows(shape.positions, shape.dim, task.value_sums, d_qkv + unit.value(), width);
  });
}

#else

bool attends_by_tiles(const AttentionForm&) { return false; }
void attention_by_tiles(std::int64_t, const AttentionForm&, const std::uint16_t*, std::uint16_t*, float*) {}
void attention_backward_by_tiles(std::int64_t, const AttentionForm&, const std::uint16_t*,
                                 const std::uint16_t*, const float*, const std::uint16_t*, std::uint16_t*) {}

#endif

}  // namespace fathom
