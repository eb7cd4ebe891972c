#include "train/kernels/attention.h"

#include <algorithm>
#include <cmath>
#include <vector>

#include "kernels/multiply.h"
#include "kernels/repack.h"
#include "kernels/targets.h"
#include "train/kernels/attention_tiles.h"
#include "train/kernels/attention_unit.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "train/kernels/attention.cpp"
#include <hwy/foreach_target.h>
// After foreach_target, as Highway wants it.
#include "kernels/vectors-inl.h"

#ifndef FATHOM_TRAIN_ATTENTION_ROW_SUM
#define FATHOM_TRAIN_ATTENTION_ROW_SUM
namespace fathom::simd {
/// Of a row of exponentials e^(score - largest).
struct RowSum {
  float share = 0;    ///< 1 / their sum
  float log_sum = 0;  ///< log(sum(e^score))
};
}  // namespace fathom::simd
#endif

HWY_BEFORE_NAMESPACE();
namespace fathom::simd::HWY_NAMESPACE {
namespace {

// Rows are gone through in whole vectors of any target; what a query does not see in the first and last ones
// counts as a very low score, and its probability is set to 0 at the end.
constexpr std::int64_t whole = 16;
constexpr float lowest = -1e30F;

constexpr float log2_e = 1.44269504F;

HWY_INLINE void store_rounded(Vector v, bool native, std::uint16_t* to) {
  hn::StoreU(native ? to_halves<true>(v) : to_halves<false>(v), D16(), to);
}

}  // namespace

// e^(scale scores[seen] - the largest of these), 0 in the rest of `row`: probabilities but for the common
// factor 1 / sum.
RowSum exponentials(Range row, Range seen, float scale, float* scores, std::uint16_t* values) {
  const D d;
  const auto lanes = static_cast<std::int64_t>(hn::Lanes(d));
  const bool native = native_bf16();
  const std::int64_t first = seen.first / whole * whole, last = (seen.last + whole - 1) / whole * whole;
  std::fill(scores + first, scores + seen.first, lowest);
  std::fill(scores + seen.last, scores + last, lowest);
  Vector most = hn::Set(d, lowest);
  for (std::int64_t i = first; i < last; i += lanes) most = hn::Max(most, hn::LoadU(d, scores + i));
  const float largest = hn::GetLane(hn::MaxOfLanes(d, most)) * scale;
  const Vector factor = hn::Set(d, scale * log2_e), top = hn::Set(d, largest * log2_e);
  Vector sum = hn::Zero(d);
  for (std::int64_t i = first; i < last; i += lanes) {
    const Vector e = coarse_exp2(hn::MulSub(hn::LoadU(d, scores + i), factor, top));
    store_rounded(e, native, values + i);
    sum = hn::Add(sum, e);
  }
  std::fill(values + row.first, values + seen.first, std::uint16_t{0});
  std::fill(values + seen.last, values + row.last, std::uint16_t{0});
  const float total = hn::GetLane(hn::SumOfLanes(d, sum));
  return {1 / total, largest + std::log(total)};
}

// p = e^(scale s - log_sum), ds = scale p (dp - delta) for what is seen of `count` keys, a multiple of 16; 0
// elsewhere.
void score_gradients_row(std::int64_t count, Range seen, float scale, float log_sum, float delta,
                         const float* s, const float* dp, std::uint16_t* p, std::uint16_t* ds) {
  const D d;
  const auto lanes = static_cast<std::int64_t>(hn::Lanes(d));
  const bool native = native_bf16();
  const Vector factor = hn::Set(d, scale), mean = hn::Set(d, delta), power = hn::Set(d, scale * log2_e),
               base = hn::Set(d, log_sum * log2_e);
  for (std::int64_t i = seen.first / whole * whole; i < seen.last; i += lanes) {
    const Vector e = coarse_exp2(hn::MulSub(hn::LoadU(d, s + i), power, base));
    store_rounded(e, native, p + i);
    store_rounded(hn::Mul(hn::Mul(e, factor), hn::Sub(hn::LoadU(d, dp + i), mean)), native, ds + i);
  }
  for (std::uint16_t* to : {p, ds}) {
    std::fill(to, to + seen.first, std::uint16_t{0});
    std::fill(to + seen.last, to + count, std::uint16_t{0});
  }
}

float dot_halves(std::int64_t count, const std::uint16_t* a, const std::uint16_t* b) {
  Vector sum = hn::Zero(D());
  each_vector(static_cast<std::size_t>(count),
              [&](std::size_t i, std::size_t n) { sum = hn::MulAdd(load(a + i, n), load(b + i, n), sum); });
  return hn::GetLane(hn::SumOfLanes(D(), sum));
}

}  // namespace fathom::simd::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace fathom {
namespace simd {
HWY_EXPORT(exponentials);
HWY_EXPORT(score_gradients_row);
HWY_EXPORT(dot_halves);
}  // namespace simd

namespace {

// Queries and keys of a block: 128 x 128 scores are 64 KB, with their gradients and both in bf16 192 KB of
// the 2 MB of an L2 cache. An odd number of lines from row to row: rows of a tile must not share one set of
// the L1 cache.
constexpr std::int64_t block = 128, block_stride = block + 32;

Destination floats_at(float* y, std::int64_t stride, bool accumulate) {
  return {.y = reinterpret_cast<std::byte*>(y), .stride = stride, .accumulate = accumulate};
}

// Its queries and keys in blocks.
class Unit : public AttentionUnit {
 public:
  Unit(const AttentionForm& form, std::int64_t index)
      : AttentionUnit(form, index), blocks_((form.positions + block - 1) / block) {}

  std::int64_t blocks() const { return blocks_; }
  std::int64_t first_of(std::int64_t i) const { return i * block; }
  std::int64_t count_of(std::int64_t i) const { return std::min(block, form().positions - i * block); }

  /// The first block of keys that block i of queries sees.
  std::int64_t first_seen(std::int64_t i) const { return first_key(first_of(i)) / block; }
  std::int64_t first_key(std::int64_t query) const {
    return form().window > 0 ? std::max<std::int64_t>(0, query - form().window + 1) : 0;
  }
  /// Which of block j's keys a query sees, counted from the block's first.
  Range seen(std::int64_t query, std::int64_t j) const {
    const std::int64_t first = std::clamp<std::int64_t>(first_key(query) - first_of(j), 0, count_of(j));
    return {first, std::clamp<std::int64_t>(query + 1 - first_of(j), first, count_of(j))};
  }

  /// As those of AttentionUnit, from block i on.
  std::int64_t query(std::int64_t i, std::int64_t head) const { return AttentionUnit::query(head) + rows(i); }
  std::int64_t key(std::int64_t j) const { return AttentionUnit::key() + rows(j); }
  std::int64_t value(std::int64_t j) const { return AttentionUnit::value() + rows(j); }
  std::int64_t mixed(std::int64_t i, std::int64_t head) const {
    return AttentionUnit::mixed(head) + first_of(i) * mixed_width();
  }
  DenseMatrix matrix(std::int64_t i, const std::uint16_t* from, std::int64_t stride) const {
    return {Compute::bf16, from, count_of(i), form().head_dim, stride};
  }

 private:
  // In what is laid out like qkv, to block i.
  std::int64_t rows(std::int64_t i) const { return first_of(i) * form().qkv_width(); }

  std::int64_t blocks_;
};

// What a thread computes with, kept from unit to unit.
struct Workspace {
  std::vector<PackedMatrix> key_rows, key_columns, value_rows, value_columns;
  PackedMatrix query_columns, gradient_columns;
  std::vector<float> scores, products, sum, key_sums, value_sums;
  std::vector<std::uint16_t> probabilities, slopes, turned;
};

}  // namespace

void attention(std::int64_t sequences, const AttentionForm& form, const std::uint16_t* qkv,
               std::uint16_t* mixed, float* log_sums) {
  if (attends_by_tiles(form)) return attention_by_tiles(sequences, form, qkv, mixed, log_sums);
  using namespace simd;
  const std::int64_t width = form.qkv_width(), dim = form.head_dim;
  const auto scale = static_cast<float>(form.scale);
  each_unit<Unit>(sequences, form, [&](const Unit& unit) {
    thread_local Workspace work;
    const std::int64_t stride = unit.blocks() * block + 32;
    work.key_rows.resize(unit.blocks());
    work.value_columns.resize(unit.blocks());
    work.scores.resize(block * stride);
    work.probabilities.resize(block * stride);
    work.sum.resize(block * dim);
    for (std::int64_t j = 0; j < unit.blocks(); ++j) {
      const DenseMatrix keys = unit.matrix(j, qkv + unit.key(j), width);
      const DenseMatrix values = unit.matrix(j, qkv + unit.value(j), width);
      pack_rows({&keys, 1}, work.key_rows[j]);
      pack_columns({&values, 1}, work.value_columns[j]);
    }
    for (std::int64_t head = unit.first_head(); head < unit.last_head(); ++head) {
      for (std::int64_t i = 0; i < unit.blocks(); ++i) {
        const std::int64_t count = unit.count_of(i), begin = unit.first_seen(i);
        for (std::int64_t j = begin; j <= i; ++j) {
          multiply_here(work.key_rows[j], count, {qkv + unit.query(i, head), width},
                        floats_at(work.scores.data() + j * block, stride, false));
        }
        float shares[block];
        for (std::int64_t r = 0; r < count; ++r) {
          const std::int64_t query = unit.first_of(i) + r;
          const RowSum sum = HWY_DYNAMIC_DISPATCH(exponentials)(
              {begin * block, (i + 1) * block}, {unit.first_key(query), query + 1}, scale,
              work.scores.data() + r * stride, work.probabilities.data() + r * stride);
          log_sums[unit.log_sum(head) + query * form.heads] = sum.log_sum;
          shares[r] = sum.share;
        }
        for (std::int64_t j = begin; j <= i; ++j) {
          multiply_here(work.value_columns[j], count, {work.probabilities.data() + j * block, stride},
                        floats_at(work.sum.data(), dim, j > begin));
        }
        for (std::int64_t r = 0; r < count; ++r)
          for (std::int64_t c = 0; c < dim; ++c) work.sum[r * dim + c] *= shares[r];
        round_rows(count, dim, work.sum.data(), mixed + unit.mixed(i, head), unit.mixed_width());
      }
    }
  });
}

void attention_backward(std::int64_t sequences, const AttentionForm& form, const std::uint16_t* qkv,
                        const std::uint16_t* mixed, const float* log_sums, const std::uint16_t* d_mixed,
                        std::uint16_t* d_qkv) {
  if (attends_by_tiles(form))
    return attention_backward_by_tiles(sequences, form, qkv, mixed, log_sums, d_mixed, d_qkv);
  using namespace simd;
  const std::int64_t width = form.qkv_width(), dim = form.head_dim;
  const auto scale = static_cast<float>(form.scale);
  each_unit<Unit>(sequences, form, [&](const Unit& unit) {
    thread_local Workspace work;
    const std::int64_t padded = unit.blocks() * block;
    for (auto* packed : {&work.key_rows, &work.key_columns, &work.value_rows}) packed->resize(unit.blocks());
    work.scores.resize(block * block);
    work.products.resize(block * block);
    for (auto* halves : {&work.probabilities, &work.slopes, &work.turned})
      halves->resize(block * block_stride);
    work.sum.resize(block * dim);
    work.key_sums.assign(padded * dim, 0.0F);
    work.value_sums.assign(padded * dim, 0.0F);
    for (std::int64_t j = 0; j < unit.blocks(); ++j) {
      const DenseMatrix keys = unit.matrix(j, qkv + unit.key(j), width);
      const DenseMatrix values = unit.matrix(j, qkv + unit.value(j), width);
      pack_rows({&keys, 1}, work.key_rows[j]);
      pack_columns({&keys, 1}, work.key_columns[j]);
      pack_rows({&values, 1}, work.value_rows[j]);
    }
    for (std::int64_t head = unit.first_head(); head < unit.last_head(); ++head) {
      for (std::int64_t i = 0; i < unit.blocks(); ++i) {
        const std::int64_t count = unit.count_of(i), begin = unit.first_seen(i);
        const std::uint16_t* queries = qkv + unit.query(i, head);
        const std::uint16_t* gradients = d_mixed + unit.mixed(i, head);
        const std::uint16_t* results = mixed + unit.mixed(i, head);
        const DenseMatrix own = unit.matrix(i, queries, width);
        const DenseMatrix own_gradients = unit.matrix(i, gradients, unit.mixed_width());
        pack_columns({&own, 1}, work.query_columns);
        pack_columns({&own_gradients, 1}, work.gradient_columns);
        float deltas[block];
        for (std::int64_t r = 0; r < count; ++r) {
          const std::int64_t at = r * unit.mixed_width();
          deltas[r] = HWY_DYNAMIC_DISPATCH(dot_halves)(dim, gradients + at, results + at);
        }
        for (std::int64_t j = begin; j <= i; ++j) {
          const std::int64_t keys = unit.count_of(j);
          multiply_here(work.key_rows[j], count, {queries, width},
                        floats_at(work.scores.data(), block, false));
          multiply_here(work.value_rows[j], count, {gradients, unit.mixed_width()},
                        floats_at(work.products.data(), block, false));
          for (std::int64_t r = 0; r < count; ++r) {
            const std::int64_t query = unit.first_of(i) + r;
            const float log_sum = log_sums[unit.log_sum(head) + query * form.heads];
            HWY_DYNAMIC_DISPATCH(score_gradients_row)
            (block, unit.seen(query, j), scale, log_sum, deltas[r], work.scores.data() + r * block,
             work.products.data() + r * block, work.probabilities.data() + r * block_stride,
             work.slopes.data() + r * block_stride);
          }
          // dV += Pᵀ dO, dK += dSᵀ Q, dQ += dS K.
          const auto add_turned = [&](const std::vector<std::uint16_t>& scores, const PackedMatrix& matrix,
                                      std::vector<float>& sums) {
            transpose({Compute::bf16, scores.data(), count, keys, block_stride}, work.turned.data(),
                      block_stride);
            multiply_here(matrix, keys, {work.turned.data(), block_stride},
                          floats_at(sums.data() + unit.first_of(j) * dim, dim, true));
          };
          add_turned(work.probabilities, work.gradient_columns, work.value_sums);
          add_turned(work.slopes, work.query_columns, work.key_sums);
          multiply_here(work.key_columns[j], count, {work.slopes.data(), block_stride},
                        floats_at(work.sum.data(), dim, j > begin));
        }
        round_rows(count, dim, work.sum.data(), d_qkv + unit.query(i, head), width);
      }
    }
    round_rows(form.positions, dim, work.key_sums.data(), d_qkv + unit.key(0), width);
    round_rows(form.positions, dim, work.value_sums.data(), d_qkv + unit.value(0), width);
  });
}

}  // namespace fathom
#endif  // HWY_ONCE
