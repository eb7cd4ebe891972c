#include "kernels/tile_attention.h"

#include <algorithm>
#include <atomic>

#include "base/threads.h"
#include "kernels/simd.h"

namespace fathom {
namespace {

// Rows of a block: a page of keys and values, 16 KB for heads of 64 in bf16, is then fetched into the L1
// cache once for all of them, beside their queries and sums.
constexpr std::int64_t block_rows = 64;

constexpr std::int64_t chunk_positions = amx::chunk_pages * page_positions;

// Below about so many pages of one tile (some 0.2 us each) the work is over before another thread has begun.
constexpr std::int64_t serial_pages = 12;

}  // namespace

std::int64_t TileAttention::block_tokens(const AttentionShape& shape) {
  return std::max<std::int64_t>(1, block_rows * shape.cache.kv_heads / shape.heads);
}

void TileAttention::plan(const AttentionShape& shape, std::span<const AttentionSpan> spans,
                         const float* queries, Rows out) {
  const KvLayout& cache = shape.cache;
  const std::int64_t head_bytes = cache.head_bytes(), group = shape.heads / cache.kv_heads;
  const std::int64_t step = block_tokens(shape);
  blocks_.clear();
  splits_.clear();
  sources_.clear();
  units_.clear();
  scratch_bytes_ = gathered_floats_ = page_reads_ = 0;
  for (const AttentionSpan& span : spans) {
    // One head after another, since one head's pages fit into an L2 cache (1 MB for 4,096 positions of 64).
    // Later tokens see more keys: from the last to the first, the threads end together.
    for (std::int64_t head = 0; head < cache.kv_heads; ++head) {
      for (std::int64_t end = span.count; end > 0; end -= step) {
        const std::int64_t begin = std::max<std::int64_t>(0, end - step);
        const std::int64_t column = head * group * cache.head_dim, row = span.row + begin;
        const amx::AttentionBlock block = {
            .pages = span.pages,
            .keys = head * head_bytes,
            .values = (cache.kv_heads + head) * head_bytes,
            .int8 = cache.type == Compute::int8,
            .head_dim = cache.head_dim,
            .padded_dim = cache.padded_dim(),
            .first = span.first + begin,
            .tokens = end - begin,
            .group = group,
            .window = shape.window,
            .scale = shape.scale,
            .softcap = shape.softcap,
            .queries = queries + row * shape.query_stride + column,
            .out = out.from(row).data + column * (out.row_bytes() / out.stride()),
            .out_bf16 = out.type == Compute::bf16,
            .query_stride = shape.query_stride,
            .out_stride = out.stride()};
        scratch_bytes_ = std::max(scratch_bytes_, amx::attention_scratch_bytes(block));
        page_reads_ += (block.end_page() - block.first_page()) * block.tiles();
        const auto index = static_cast<std::int64_t>(blocks_.size());
        blocks_.push_back(block);
        splits_.push_back({.gathered = gathered_floats_});
        sources_.push_back({&span, head});
        // One tile has as little to compute as there can be for its pages, and one sequence few such blocks.
        // Whoever computes the last chunk may have to store all of the span.
        const bool ends_in_one =
            block.first / chunk_positions == (block.first + block.tokens - 1) / chunk_positions;
        if (block.tiles() == 1 && block.chunks() > 1 && ends_in_one) {
          splits_.back().remaining = static_cast<std::int32_t>(block.chunks());
          gathered_floats_ += block.chunks() * amx::gathered_floats(block);
          for (std::int64_t chunk = block.first_chunk(); chunk < block.end_chunk(); ++chunk)
            units_.push_back({index, chunk});
        } else {
          units_.push_back({index});
        }
      }
    }
  }
}

// What a unit reads of the cache; nothing where its arithmetic takes longer than that.
amx::UpcomingPages TileAttention::pages_of(const Unit& unit) const {
  const amx::AttentionBlock& block = blocks_[static_cast<std::size_t>(unit.block)];
  if (block.tiles() > 1) return {};
  if (unit.chunk < 0) return {&block, block.first_page(), block.end_page()};
  return {&block, std::max(block.first_page(), unit.chunk * amx::chunk_pages),
          std::min(block.end_page(), (unit.chunk + 1) * amx::chunk_pages)};
}

void TileAttention::run_unit(const Unit& unit, const KvLayout& cache, const NewKv& fresh,
                             const amx::UpcomingPages& upcoming, std::byte* scratch) {
  const amx::AttentionBlock& block = blocks_[static_cast<std::size_t>(unit.block)];
  // The newest positions are in the last chunk.
  if (fresh.keys != nullptr && (unit.chunk < 0 || unit.chunk + 1 == block.end_chunk())) {
    const Source& source = sources_[static_cast<std::size_t>(unit.block)];
    simd::store_kv(cache, *source.span, source.kv_head, fresh.keys, fresh.values, fresh.stride);
  }
  if (unit.chunk < 0) return amx::attention(block, upcoming, scratch);
  Split& split = splits_[static_cast<std::size_t>(unit.block)];
  float* gathered = gathered_.as<float>() + split.gathered;
  amx::attention_chunk(block, unit.chunk, upcoming,
                       gathered + (unit.chunk - block.first_chunk()) * amx::gathered_floats(block), scratch);
  // Whoever computes the last of the chunks joins them all, in their order.
  if (std::atomic_ref(split.remaining).fetch_sub(1, std::memory_order_acq_rel) == 1)
    amx::join_chunks(block, gathered);
}

void TileAttention::run(const AttentionShape& shape, std::span<const AttentionSpan> spans,
                        const float* queries, const NewKv& fresh, Rows out) {
  plan(shape, spans, queries, out);
  scratch_.reserve(static_cast<std::size_t>(scratch_bytes_ * thread_count()));
  gathered_.reserve(static_cast<std::size_t>(gathered_floats_) * sizeof(float));
  std::atomic<std::size_t> next = 0;
  const auto work = [&](std::int64_t thread) {
    std::byte* scratch = scratch_.as<std::byte>() + thread * scratch_bytes_;
    const auto threads = static_cast<std::size_t>(thread_count());
    for (std::size_t i = next++; i < units_.size(); i = next++) {
      // Whichever unit comes next, it is about this one.
      const std::size_t after = i + threads;
      run_unit(units_[i], shape.cache, fresh,
               after < units_.size() ? pages_of(units_[after]) : amx::UpcomingPages(), scratch);
    }
  };
  if (page_reads_ <= serial_pages)
    work(0);
  else
    parallel_for(thread_count(), work);
}

}  // namespace fathom
