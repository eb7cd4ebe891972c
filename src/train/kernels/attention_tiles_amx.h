// One head's causal attention and its way back by AMX's tiles, for attention_tiles.cpp, which brings the
// operands into form. 32 queries meet 32 keys at a time, and positions are filled up with zeros to whole
// steps of so many.
//
// Scores are computed turned, S^T = K Q^T: a vector then holds 16 queries, so that their largest scores, sums
// and masks are vectors, too; the weights P^T are written as the next products read them, and nothing has to
// be turned but the results.
#pragma once

#include <cstddef>
#include <cstdint>

namespace fathom::amx {

/// Queries or keys of a step.
inline constexpr std::int64_t attention_step = 32;
/// Keys whose gradients are computed together, for so many queries at a time: their weights and slopes, 136
/// KB each, stay in the L2 cache. Rows of these are an odd number of lines apart (kernels/bf16.h).
inline constexpr std::int64_t key_block = 128, query_chunk = 512, chunk_stride = query_chunk + 32;

struct HeadShape {
  std::int64_t positions = 0, padded = 0;  ///< filled up to whole steps
  std::int64_t dim = 0;                    ///< a multiple of 32
  std::int64_t window = 0;                 ///< 0: all
  float scale = 1;
};

/// Rows of bf16, `stride` values apart.
struct HeadRows {
  const std::uint16_t* data = nullptr;
  std::int64_t stride = 0;
};

/// keys and values [padded, dim], turned [dim, padded]; queries packed by rows (kernels/repack.h).
struct HeadForward {
  HeadRows keys = {}, turned_values = {};
  const std::byte* queries = nullptr;
  std::uint16_t* mixed = nullptr;  ///< [positions, dim], rows `mixed_stride` values apart
  std::int64_t mixed_stride = 0;
  float* log_sums = nullptr;     ///< [padded]: log(sum(e^score))
  float* scores = nullptr;       ///< scratch: [padded, 32]
  std::byte* weights = nullptr;  ///< scratch: [padded, 32] of bf16
};

void attend(const HeadShape& shape, const HeadForward& head);

/// `mixed` is what attend() has written; its gradients like it. Both packed, too, as the queries are, by rows
/// and by columns.
struct HeadBackward {
  HeadRows keys = {}, values = {}, turned_keys = {}, mixed = {}, gradients = {};
  const std::byte *queries = nullptr, *query_columns = nullptr;
  const std::byte *packed_gradients = nullptr, *gradient_columns = nullptr;
  const float* log_sums = nullptr;                   ///< [padded]
  float *key_sums = nullptr, *value_sums = nullptr;  ///< [padded, dim]: where their gradients add up
  bool resumes = false;                              ///< these hold other heads' already
  std::uint16_t* d_queries = nullptr;                ///< [positions, dim], rows `d_stride` values apart
  std::int64_t d_stride = 0;
  // Scratch.
  float* query_sums = nullptr;                          ///< [padded, dim]
  float *bases = nullptr, *deltas = nullptr;            ///< [padded]
  std::uint16_t *weights = nullptr, *slopes = nullptr;  ///< [key_block, chunk_stride]
};

void attend_backward(const HeadShape& shape, const HeadBackward& head);

}  // namespace fathom::amx
