#include "kernels/attention_work.h"

#include <algorithm>
#include <atomic>

#include "base/threads.h"
#include "kernels/isa.h"
#include "kernels/simd.h"

namespace fathom {
namespace {

constexpr std::int64_t chunk_positions = attention_chunk_pages * page_positions;

AttentionKernel kernel_for(const AttentionShape& shape) {
#if defined(__x86_64__)
  if (native_tiles() && shape.cache.type != Compute::f32) return amx::attention_kernel();
#endif
  return simd::attention_kernel();
}

}  // namespace

std::int64_t AttentionWork::block_tokens(const AttentionShape& shape) {
  return std::max<std::int64_t>(1, kernel_for(shape).block_rows * shape.cache.kv_heads / shape.heads);
}

void AttentionWork::plan(const AttentionShape& shape, std::span<const AttentionSpan> spans,
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
        const AttentionBlock block = {.pages = span.pages,
                                      .keys = head * head_bytes,
                                      .values = (cache.kv_heads + head) * head_bytes,
                                      .element_bytes = static_cast<int>(cache.element_bytes()),
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
        scratch_bytes_ = std::max(scratch_bytes_, kernel_.scratch_bytes(block));
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
          gathered_floats_ += block.chunks() * kernel_.gathered_floats(block);
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
UpcomingPages AttentionWork::pages_of(const Unit& unit) const {
  const AttentionBlock& block = blocks_[static_cast<std::size_t>(unit.block)];
  if (block.tiles() > 1) return {};
  if (unit.chunk < 0) return {&block, block.first_page(), block.end_page()};
  return {&block, std::max(block.first_page(), unit.chunk * attention_chunk_pages),
          std::min(block.end_page(), (unit.chunk + 1) * attention_chunk_pages)};
}

void AttentionWork::run_unit(const Unit& unit, const KvLayout& cache, const NewKv& fresh,
                             const UpcomingPages& upcoming, std::byte* scratch) {
  const AttentionBlock& block = blocks_[static_cast<std::size_t>(unit.block)];
  // The newest positions are in the last chunk.
  if (fresh.keys != nullptr && (unit.chunk < 0 || unit.chunk + 1 == block.end_chunk())) {
    const Source& source = sources_[static_cast<std::size_t>(unit.block)];
    simd::store_kv(cache, *source.span, source.kv_head, fresh.keys, fresh.values, fresh.stride);
  }
  if (unit.chunk < 0) return kernel_.attend(block, upcoming, scratch);
  Split& split = splits_[static_cast<std::size_t>(unit.block)];
  float* gathered = gathered_.as<float>() + split.gathered;
  kernel_.attend_chunk(block, unit.chunk, upcoming,
                       gathered + (unit.chunk - block.first_chunk()) * kernel_.gathered_floats(block),
                       scratch);
  // Whoever computes the last of the chunks joins them all, in their order.
  if (std::atomic_ref(split.remaining).fetch_sub(1, std::memory_order_acq_rel) == 1)
    kernel_.join_chunks(block, gathered);
}

void AttentionWork::run(const AttentionShape& shape, std::span<const AttentionSpan> spans,
                        const float* queries, const NewKv& fresh, Rows out) {
  kernel_ = kernel_for(shape);
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
               after < units_.size() ? pages_of(units_[after]) : UpcomingPages(), scratch);
    }
  };
  if (page_reads_ <= kernel_.serial_pages)
    work(0);
  else
    parallel_for(thread_count(), work);
}

}  // namespace fathom
