// What attention is shared out as (attention_work.h), and who computes it: vectors (attention.cpp) or AMX's
// tiles (attention_amx.cpp). Plain types alone, since that file is compiled for AMX (tiles.h).
#pragma once

#include <cstddef>
#include <cstdint>

namespace fathom {

/// Keys whose softmax is computed as one; a row that sees more joins the results of several such chunks,
/// oldest first. Chunks begin at multiples of this position whoever computes them, so that they can be shared
/// out among threads without changing a bit of the result.
inline constexpr std::int64_t attention_chunk_pages = 8;

/// The query heads that share one KV head, at some consecutive tokens of a sequence: a row is one head of one
/// token, and the heads of a token are neighbours.
struct AttentionBlock {
  std::byte* const* pages = nullptr;          // as AttentionSpan::pages
  std::int64_t keys = 0, values = 0;          // bytes from a page's beginning to this head's
  int element_bytes = 0;                      // the pages' type: 1 int8, 2 bf16, 4 float32
  std::int64_t head_dim = 0, padded_dim = 0;  // as KvLayout's
  std::int64_t first = 0, tokens = 0;         // position of the first token
  std::int64_t group = 0;                     // heads a token
  std::int64_t window = 0;                    // as AttentionShape::window
  float scale = 1, softcap = 0;
  const float* queries = nullptr;                 // of the first token's first head
  std::byte* out = nullptr;                       // likewise
  bool out_bf16 = false;                          // or float32
  std::int64_t query_stride = 0, out_stride = 0;  // elements between tokens

  std::int64_t rows() const { return tokens * group; }
  std::int64_t tiles() const { return (rows() + 15) / 16; }
  bool int8() const { return element_bytes == 1; }
  std::int64_t head_bytes() const { return padded_dim * 64 * element_bytes + (int8() ? 64 * 4 : 0); }
  std::int64_t first_page() const { return window > 0 && first >= window ? (first - window + 1) / 64 : 0; }
  std::int64_t end_page() const { return (first + tokens - 1) / 64 + 1; }
  std::int64_t first_chunk() const { return first_page() / attention_chunk_pages; }
  std::int64_t end_chunk() const { return (end_page() - 1) / attention_chunk_pages + 1; }
  std::int64_t chunks() const { return end_chunk() - first_chunk(); }
};

/// Pages that the same thread will read next, if any: they are fetched while it computes with others.
struct UpcomingPages {
  const AttentionBlock* block = nullptr;
  std::int64_t first = 0, end = 0;
};

/// One kind of arithmetic. Each row's result is the same to the last bit in whatever block it is.
struct AttentionKernel {
  std::int64_t block_rows = 0;    ///< rows that are worth computing together
  std::int64_t serial_pages = 0;  ///< so many pages of 16 rows take less than another thread takes to begin
  /// Bytes of scratch, at a multiple of 64, that attend() of this block needs; attend_chunk() needs less.
  std::int64_t (*scratch_bytes)(const AttentionBlock& block);
  /// Floats of what a block's rows gather over a chunk.
  std::int64_t (*gathered_floats)(const AttentionBlock& block);
  /// All of a block, from queries to out.
  void (*attend)(const AttentionBlock& block, const UpcomingPages& upcoming, std::byte* scratch);
  /// One chunk alone, to be joined.
  void (*attend_chunk)(const AttentionBlock& block, std::int64_t chunk, const UpcomingPages& upcoming,
                       float* gathered, std::byte* scratch);
  /// Joins all chunks of a block, which lie one after another, and writes the result; the first is
  /// overwritten.
  void (*join_chunks)(const AttentionBlock& block, float* gathered);
};

namespace simd {
/// Pages of any type, at every level.
AttentionKernel attention_kernel();
}  // namespace simd

namespace amx {
/// Pages of bf16 or int8.
AttentionKernel attention_kernel();
}  // namespace amx

}  // namespace fathom
