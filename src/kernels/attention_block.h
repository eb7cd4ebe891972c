// Attention over pages of bf16 or int8 with AMX's tiles; plain types alone, since the file that implements it
// is compiled for AMX (tiles.h).
#pragma once

#include <cstddef>
#include <cstdint>

namespace fathom::amx {

/// Keys whose softmax is computed as one; a row that sees more joins the results of several such chunks,
/// oldest first. Chunks begin at multiples of this position whoever computes them, so that they can be shared
/// out among threads without changing a bit of the result.
inline constexpr std::int64_t chunk_pages = 8;

/// The query heads that share one KV head, at some consecutive tokens of a sequence: a row is one head of one
/// token, and the heads of a token are neighbours.
struct AttentionBlock {
  std::byte* const* pages = nullptr;          // as AttentionSpan::pages
  std::int64_t keys = 0, values = 0;          // bytes from a page's beginning to this head's
  bool int8 = false;                          // the pages' type; otherwise bf16
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
  std::int64_t head_bytes() const { return padded_dim * 64 * (int8 ? 1 : 2) + (int8 ? 64 * 4 : 0); }
  std::int64_t first_page() const { return window > 0 && first >= window ? (first - window + 1) / 64 : 0; }
  std::int64_t end_page() const { return (first + tokens - 1) / 64 + 1; }
  std::int64_t first_chunk() const { return first_page() / chunk_pages; }
  std::int64_t end_chunk() const { return (end_page() - 1) / chunk_pages + 1; }
  std::int64_t chunks() const { return end_chunk() - first_chunk(); }
};

/// What a block's rows have gathered over one chunk: sum and mix of the values with weights 2^(s - shift),
/// where 2^s is e^score. For each tile of 16 rows: mixed [16, padded_dim], sums [16, 16] (the sum of a row is
/// that of its 16), shifts [16].
std::int64_t gathered_floats(const AttentionBlock& block);

/// Bytes of scratch, at a multiple of 64, that attention() of this block needs; attention_chunk() needs less.
std::int64_t attention_scratch_bytes(const AttentionBlock& block);

/// Pages that the same thread will read next, if any: they are fetched while it computes with others.
struct UpcomingPages {
  const AttentionBlock* block = nullptr;
  std::int64_t first = 0, end = 0;
};

/// All of a block, from queries to out.
void attention(const AttentionBlock& block, const UpcomingPages& upcoming, std::byte* scratch);

/// One chunk alone, to be joined.
void attention_chunk(const AttentionBlock& block, std::int64_t chunk, const UpcomingPages& upcoming,
                     float* gathered, std::byte* scratch);

/// Joins all chunks of a block, which lie one after another, and writes the result; the first is overwritten.
void join_chunks(const AttentionBlock& block, float* gathered);

}  // namespace fathom::amx
