// Attention by vectors: softmax(q k) v over pages of 64 keys with a running maximum and sum (Milakov and
// Gimelshein 2018; FlashAttention-2, Dao 2023), so that no more than a page's scores exist at a time; chunks
// of pages joined at the end (flash decoding).
#include <algorithm>
#include <limits>

#include <hwy/cache_control.h>

#include "kernels/attention_block.h"
#include "kernels/backend.h"
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

// What a block's rows gather over a chunk.
struct Gathered {
  float* mixed;    // [rows, padded_dim], not yet divided by the sums
  float* largest;  // [rows]
  float* sums;     // [rows]; 0 of a row that has seen no key
};

Gathered gathered_at(const AttentionBlock& block, float* memory) {
  float* largest = memory + block.rows() * block.padded_dim;
  return {memory, largest, largest + block.rows()};
}

struct Scratch {
  float* queries;  // [rows, padded_dim], scaled
  float* scores;   // [rows, 64]
  float* gathered[2];
};

void soft_cap(float cap, float* scores) {
  const D d;
  const auto factor = hn::Set(d, cap), inverse = hn::Set(d, 1 / cap);
  for (std::size_t i = 0; i < page_positions; i += hn::Lanes(d))
    hn::StoreU(hn::Mul(factor, hn::Tanh(d, hn::Mul(hn::LoadU(d, scores + i), inverse))), d, scores + i);
}

// Turns one row's scores into weights e^(s - max) for the keys [begin, end) of the page, zeros elsewhere, and
// scales what the row has gathered so far when the maximum has grown.
HWY_INLINE void soft_max(const Gathered& rows, std::int64_t row, std::int64_t width, float* scores,
                         std::int64_t begin, std::int64_t end) {
  const D d;
  const std::size_t lanes = hn::Lanes(d);
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

  const auto least = hn::Set(d, -87.0F);
  auto sum = hn::Zero(d);
  for (std::size_t i = 0; i < page_positions; i += lanes) {
    const auto below = hn::Sub(hn::LoadU(d, scores + i), largest);
    // Not the maximum of the two, which of NaN and a number may be the number.
    const auto weight = exponential(hn::IfThenElse(hn::Lt(below, least), least, below));
    const auto kept = hn::IfThenElseZero(seen(i), weight);
    hn::StoreU(kept, d, scores + i);
    sum = hn::Add(sum, kept);
  }
  const float before = rows.largest[row], now = hn::GetLane(largest);
  if (now != before) {
    const auto shrink = exponential(hn::Max(hn::Sub(hn::Set(d, before), largest), hn::Set(d, -87.0F)));
    rows.sums[row] *= hn::GetLane(shrink);
    float* mixed = rows.mixed + row * width;
    for (std::int64_t i = 0; i < width; i += static_cast<std::int64_t>(lanes))
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
HWY_INLINE void attend_page(const AttentionBlock& block, std::int64_t page, const Scratch& scratch,
                            const Gathered& gathered) {
  const std::int64_t rows = block.rows(), width = block.padded_dim;
  const T* keys = reinterpret_cast<const T*>(block.pages[page] + block.keys);
  const T* values = reinterpret_cast<const T*>(block.pages[page] + block.values);
  constexpr bool scaled = sizeof(T) == 1;  // behind the keys and behind the values
  const bool few = rows <= static_cast<std::int64_t>(tile_rows);
  if (few) fetch(block.pages[page] + block.values, block.head_bytes());
  product(static_cast<std::size_t>(rows), static_cast<std::size_t>(width), scratch.queries,
          static_cast<std::size_t>(width), keys, page_positions, page_positions, scratch.scores,
          page_positions, false);

  const std::int64_t first = block.first - page * page_positions;
  std::int64_t last_seen = 0;
  for (std::int64_t row = 0; row < rows; ++row) {
    const std::int64_t position = first + row / block.group;  // within the page
    const std::int64_t end = std::min(position + 1, page_positions);
    const std::int64_t begin = block.window > 0 ? std::max<std::int64_t>(0, position - block.window + 1) : 0;
    float* scores = scratch.scores + row * page_positions;
    if (begin >= end) {
      std::fill_n(scores, page_positions, 0.0F);
      continue;
    }
    const std::int64_t elements = width * page_positions;
    if constexpr (scaled) scale_columns(reinterpret_cast<const float*>(keys + elements), scores);
    if (block.softcap > 0) soft_cap(block.softcap, scores);
    soft_max(gathered, row, width, scores, begin, end);
    if constexpr (scaled) scale_columns(reinterpret_cast<const float*>(values + elements), scores);
    last_seen = std::max(last_seen, end);
  }
  if (few && page + 1 < block.end_page()) fetch(block.pages[page + 1] + block.keys, block.head_bytes());
  product(static_cast<std::size_t>(rows), static_cast<std::size_t>(last_seen), scratch.scores, page_positions,
          values, static_cast<std::size_t>(width), static_cast<std::size_t>(width), gathered.mixed,
          static_cast<std::size_t>(width), true);
}

void run_chunk(const AttentionBlock& block, std::int64_t chunk, const Scratch& scratch,
               const Gathered& gathered) {
  std::fill_n(gathered.mixed, block.rows() * block.padded_dim, 0.0F);
  std::fill_n(gathered.largest, block.rows(), -std::numeric_limits<float>::infinity());
  std::fill_n(gathered.sums, block.rows(), 0.0F);
  const std::int64_t end = std::min(block.end_page(), (chunk + 1) * attention_chunk_pages);
  for (std::int64_t page = std::max(block.first_page(), chunk * attention_chunk_pages); page < end; ++page) {
    if (block.element_bytes == 4)
      attend_page<float>(block, page, scratch, gathered);
    else if (block.element_bytes == 2)
      attend_page<std::uint16_t>(block, page, scratch, gathered);
    else
      attend_page<std::int8_t>(block, page, scratch, gathered);
  }
}

// Adds what the rows have gathered elsewhere. A side that has seen nothing changes no bit of the other.
void join(const AttentionBlock& block, const Gathered& to, const Gathered& from) {
  const D d;
  const std::int64_t width = block.padded_dim;
  for (std::int64_t row = 0; row < block.rows(); ++row) {
    if (from.sums[row] == 0) continue;
    float* mixed = to.mixed + row * width;
    const float* other = from.mixed + row * width;
    if (to.sums[row] == 0) {
      std::copy_n(other, width, mixed);
      to.sums[row] = from.sums[row];
      to.largest[row] = from.largest[row];
      continue;
    }
    const float largest = std::max(to.largest[row], from.largest[row]);
    const auto factor = [&](float own) {
      return exponential(hn::Max(hn::Set(d, own - largest), hn::Set(d, -87.0F)));
    };
    const auto mine = factor(to.largest[row]), others = factor(from.largest[row]);
    for (std::int64_t i = 0; i < width; i += static_cast<std::int64_t>(hn::Lanes(d)))
      hn::StoreU(hn::MulAdd(hn::LoadU(d, mixed + i), mine, hn::Mul(hn::LoadU(d, other + i), others)), d,
                 mixed + i);
    to.sums[row] = to.sums[row] * hn::GetLane(mine) + from.sums[row] * hn::GetLane(others);
    to.largest[row] = largest;
  }
}

// Where each row's head is in queries or results so far apart.
std::int64_t offset(const AttentionBlock& block, std::int64_t row, std::int64_t stride) {
  return row / block.group * stride + row % block.group * block.head_dim;
}

void write_out(const AttentionBlock& block, const Gathered& gathered) {
  const auto dim = static_cast<std::size_t>(block.head_dim);
  for (std::int64_t row = 0; row < block.rows(); ++row) {
    float* mixed = gathered.mixed + row * block.padded_dim;
    for (std::size_t i = 0; i < dim; ++i) mixed[i] /= gathered.sums[row];
    const std::int64_t to = offset(block, row, block.out_stride);
    if (block.out_bf16)
      to_bf16(dim, mixed, reinterpret_cast<std::uint16_t*>(block.out) + to);
    else
      std::copy_n(mixed, dim, reinterpret_cast<float*>(block.out) + to);
  }
}

Scratch prepare(const AttentionBlock& block, std::byte* memory) {
  const std::int64_t rows = block.rows(), width = block.padded_dim;
  Scratch scratch = {};
  scratch.queries = reinterpret_cast<float*>(memory);
  scratch.scores = scratch.queries + rows * width;
  scratch.gathered[0] = scratch.scores + rows * page_positions;
  scratch.gathered[1] = scratch.gathered[0] + rows * (width + 2);
  for (std::int64_t row = 0; row < rows; ++row) {
    const float* query = block.queries + offset(block, row, block.query_stride);
    float* to = scratch.queries + row * width;
    for (std::int64_t i = 0; i < block.head_dim; ++i) to[i] = query[i] * block.scale;
    std::fill(to + block.head_dim, to + width, 0.0F);
  }
  return scratch;
}

void attend(const AttentionBlock& block, std::byte* memory) {
  const Scratch scratch = prepare(block, memory);
  const Gathered all = gathered_at(block, scratch.gathered[0]),
                 other = gathered_at(block, scratch.gathered[1]);
  run_chunk(block, block.first_chunk(), scratch, all);
  for (std::int64_t chunk = block.first_chunk() + 1; chunk < block.end_chunk(); ++chunk) {
    run_chunk(block, chunk, scratch, other);
    join(block, all, other);
  }
  write_out(block, all);
}

void attend_chunk(const AttentionBlock& block, std::int64_t chunk, float* gathered, std::byte* memory) {
  run_chunk(block, chunk, prepare(block, memory), gathered_at(block, gathered));
}

void join_chunks(const AttentionBlock& block, float* gathered) {
  const Gathered all = gathered_at(block, gathered);
  for (std::int64_t chunk = 1; chunk < block.chunks(); ++chunk)
    join(block, all, gathered_at(block, gathered + chunk * block.rows() * (block.padded_dim + 2)));
  write_out(block, all);
}

}  // namespace fathom::simd::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace fathom::simd {

HWY_EXPORT(attend);
HWY_EXPORT(attend_chunk);
HWY_EXPORT(join_chunks);

AttentionKernel attention_kernel() {
  const auto gathered = [](const AttentionBlock& block) { return block.rows() * (block.padded_dim + 2); };
  const auto scratch = [](const AttentionBlock& block) {
    const std::int64_t floats = block.rows() * (3 * block.padded_dim + page_positions + 4);
    return (floats + 15) / 16 * 64;
  };
  // 72 rows: 12 tiles of 6, whose scores are 18 KB. A page of a tile takes some 0.5 us.
  return {.block_rows = 72,
          .serial_pages = 4,
          .scratch_bytes = scratch,
          .gathered_floats = gathered,
          .attend =
              [](const AttentionBlock& block, const UpcomingPages&, std::byte* memory) {
                HWY_DYNAMIC_DISPATCH(attend)
                (block, memory);
              },
          .attend_chunk =
              [](const AttentionBlock& block, std::int64_t chunk, const UpcomingPages&, float* to,
                 std::byte* memory) {
                HWY_DYNAMIC_DISPATCH(attend_chunk)
                (block, chunk, to, memory);
              },
          .join_chunks =
              [](const AttentionBlock& block, float* all) {
                HWY_DYNAMIC_DISPATCH(join_chunks)
                (block, all);
              }};
}

}  // namespace fathom::simd
#endif
