// Attention of a block of queries: softmax(q k) v over pages of 64 keys with a running maximum and sum
// (Milakov and Gimelshein 2018; FlashAttention), so that no more than a page's scores exist at a time.
#include <algorithm>
#include <limits>

#include <hwy/cache_control.h>

#include "kernels/simd.h"
#include "kernels/targets.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/attention.cpp"
#include <hwy/foreach_target.h>
// After foreach_target, as Highway wants it.
#include <hwy/contrib/math/math-inl.h>

#include "kernels/product_tile-inl.h"
#include "kernels/vectors-inl.h"

HWY_BEFORE_NAMESPACE();
namespace fathom::simd::HWY_NAMESPACE {

// Running state of one block; each row is one query head of one token.
struct Rows {
  std::size_t count, width;  // width: the padded head_dim
  float* queries;            // [count, width], scaled
  float* mixed;              // [count, width], not yet divided by the sums
  float* scores;             // [count, 64]
  float* largest;            // [count]
  float* sums;               // [count]
};

void soft_cap(float cap, float* scores) {
  const D d;
  const auto factor = hn::Set(d, cap), inverse = hn::Set(d, 1 / cap);
  for (std::size_t i = 0; i < page_positions; i += hn::Lanes(d))
    hn::StoreU(hn::Mul(factor, hn::Tanh(d, hn::Mul(hn::LoadU(d, scores + i), inverse))), d, scores + i);
}

// Turns one row's scores into weights e^(s - max) for the keys [begin, end) of the page, zeros elsewhere, and
// scales what the row has gathered so far when the maximum has grown.
HWY_INLINE void soft_max(const Rows& rows, std::size_t row, std::int64_t begin, std::int64_t end) {
  const D d;
  const std::size_t lanes = hn::Lanes(d);
  float* scores = rows.scores + row * page_positions;
  const auto lowest = hn::Set(d, -std::numeric_limits<float>::infinity());
  const auto seen = [&](std::size_t i) {
    const auto position = hn::Iota(d, static_cast<float>(i));
    return hn::And(hn::Ge(position, hn::Set(d, static_cast<float>(begin))),
                   hn::Lt(position, hn::Set(d, static_cast<float>(end))));
  };
  auto largest = hn::Set(d, rows.largest[row]);
  for (std::size_t i = 0; i < page_positions; i += lanes)
    largest = hn::Max(largest, hn::IfThenElse(seen(i), hn::LoadU(d, scores + i), lowest));
  largest = hn::MaxOfLanes(d, largest);

  auto sum = hn::Zero(d);
  for (std::size_t i = 0; i < page_positions; i += lanes) {
    const auto below = hn::Sub(hn::LoadU(d, scores + i), largest);
    const auto weight = exponential(hn::Max(below, hn::Set(d, -87.0F)));
    const auto kept = hn::IfThenElseZero(seen(i), weight);
    hn::StoreU(kept, d, scores + i);
    sum = hn::Add(sum, kept);
  }
  const float before = rows.largest[row], now = hn::GetLane(largest);
  if (now != before) {
    const auto shrink = exponential(hn::Max(hn::Sub(hn::Set(d, before), largest), hn::Set(d, -87.0F)));
    rows.sums[row] *= hn::GetLane(shrink);
    float* mixed = rows.mixed + row * rows.width;
    for (std::size_t i = 0; i < rows.width; i += lanes)
      hn::StoreU(hn::Mul(hn::LoadU(d, mixed + i), shrink), d, mixed + i);
  }
  rows.largest[row] = now;
  rows.sums[row] += hn::GetLane(hn::SumOfLanes(d, sum));
}

// Each column times the scale of its position.
void scale_columns(const float* scales, float* row) {
  const D d;
  for (std::size_t i = 0; i < page_positions; i += hn::Lanes(d))
    hn::StoreU(hn::Mul(hn::LoadU(d, row + i), hn::LoadU(d, scales + i)), d, row + i);
}

// A token's attention is bound by reading keys and values, in runs of 4 to 8 KB that the processor does not
// foresee.
void fetch(const std::byte* from, std::int64_t bytes) {
  for (std::int64_t i = 0; i < bytes; i += 64) hwy::Prefetch(from + i);
}

template <class T>
HWY_INLINE void attend_page(const AttentionShape& shape, const AttentionBlock& block, std::int64_t page,
                            const Rows& rows) {
  const KvLayout& cache = shape.cache;
  const std::byte* head =
      block.span->pages[page] + static_cast<std::int64_t>(block.kv_head) * cache.head_bytes();
  const T* keys = reinterpret_cast<const T*>(head);
  const T* values = reinterpret_cast<const T*>(head + cache.kv_heads * cache.head_bytes());
  constexpr bool scaled = sizeof(T) == 1;  // behind the keys and behind the values
  const bool few = rows.count <= tile_rows;
  if (few) fetch(reinterpret_cast<const std::byte*>(values), cache.head_bytes());
  product(rows.count, rows.width, rows.queries, rows.width, keys, page_positions, page_positions, rows.scores,
          page_positions, false);

  const auto group = static_cast<std::size_t>(shape.heads / cache.kv_heads);
  const std::int64_t first = block.span->first + block.begin - page * page_positions;
  std::int64_t last_seen = 0;
  for (std::size_t row = 0; row < rows.count; ++row) {
    const std::int64_t position = first + static_cast<std::int64_t>(row / group);  // within the page
    const std::int64_t end = std::min(position + 1, page_positions);
    const std::int64_t begin = shape.window > 0 ? std::max<std::int64_t>(0, position - shape.window + 1) : 0;
    float* scores = rows.scores + row * page_positions;
    if (begin >= end) {
      std::fill_n(scores, page_positions, 0.0F);
      continue;
    }
    if constexpr (scaled) scale_columns(reinterpret_cast<const float*>(keys + cache.head_elements()), scores);
    if (shape.softcap > 0) soft_cap(shape.softcap, scores);
    soft_max(rows, row, begin, end);
    if constexpr (scaled)
      scale_columns(reinterpret_cast<const float*>(values + cache.head_elements()), scores);
    last_seen = std::max(last_seen, end);
  }
  if (few && (page + 1) * page_positions < block.span->first + block.end)
    fetch(block.span->pages[page + 1] + (head - block.span->pages[page]), cache.head_bytes());
  product(rows.count, static_cast<std::size_t>(last_seen), rows.scores, page_positions, values, rows.width,
          rows.width, rows.mixed, rows.width, true);
}

void attention(const AttentionShape& shape, const AttentionBlock& block, const float* queries,
               fathom::Rows out, float* scratch) {
  const auto group = static_cast<std::size_t>(shape.heads / shape.cache.kv_heads);
  const auto head_dim = static_cast<std::size_t>(shape.cache.head_dim);
  Rows rows = {};
  rows.count = static_cast<std::size_t>(block.end - block.begin) * group;
  rows.width = static_cast<std::size_t>(shape.cache.padded_dim());
  rows.queries = scratch;
  rows.mixed = rows.queries + rows.count * rows.width;
  rows.scores = rows.mixed + rows.count * rows.width;
  rows.largest = rows.scores + rows.count * page_positions;
  rows.sums = rows.largest + rows.count;
  const auto offset = [&](std::size_t row, std::int64_t stride) {
    const auto token = static_cast<std::size_t>(block.span->row + block.begin) + row / group;
    return token * static_cast<std::size_t>(stride) + (block.kv_head * group + row % group) * head_dim;
  };
  std::fill_n(rows.queries, 2 * rows.count * rows.width, 0.0F);
  std::fill_n(rows.largest, rows.count, -std::numeric_limits<float>::infinity());
  std::fill_n(rows.sums, rows.count, 0.0F);
  for (std::size_t row = 0; row < rows.count; ++row) {
    const float* query = queries + offset(row, shape.query_stride);
    for (std::size_t i = 0; i < head_dim; ++i) rows.queries[row * rows.width + i] = query[i] * shape.scale;
  }

  const std::int64_t first = block.span->first + block.begin, last = block.span->first + block.end - 1;
  const std::int64_t oldest = shape.window > 0 ? std::max<std::int64_t>(0, first - shape.window + 1) : 0;
  for (std::int64_t page = oldest / page_positions; page <= last / page_positions; ++page) {
    if (shape.cache.type == Compute::f32)
      attend_page<float>(shape, block, page, rows);
    else if (shape.cache.type == Compute::bf16)
      attend_page<std::uint16_t>(shape, block, page, rows);
    else
      attend_page<std::int8_t>(shape, block, page, rows);
  }
  for (std::size_t row = 0; row < rows.count; ++row) {
    float* mixed = rows.mixed + row * rows.width;
    for (std::size_t i = 0; i < head_dim; ++i) mixed[i] /= rows.sums[row];
    const std::size_t to = offset(row, out.stride());
    if (out.type == Compute::f32)
      std::copy_n(mixed, head_dim, out.row<float>(0) + to);
    else
      to_bf16(head_dim, mixed, out.row<std::uint16_t>(0) + to);
  }
}

}  // namespace fathom::simd::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace fathom::simd {

HWY_EXPORT(attention);

std::int64_t attention_block_tokens(const AttentionShape& shape) {
  constexpr std::int64_t rows = 72;  // 12 tiles of 6; their scores are 18 KB
  return std::max<std::int64_t>(1, rows / (shape.heads / shape.cache.kv_heads));
}

std::size_t attention_scratch(const AttentionShape& shape) {
  const std::int64_t rows = attention_block_tokens(shape) * (shape.heads / shape.cache.kv_heads);
  return static_cast<std::size_t>(rows * (2 * shape.cache.padded_dim() + page_positions + 2));
}

void attention(const AttentionShape& shape, const AttentionBlock& block, const float* queries,
               fathom::Rows out, float* scratch) {
  HWY_DYNAMIC_DISPATCH(attention)(shape, block, queries, out, scratch);
}

}  // namespace fathom::simd
#endif
