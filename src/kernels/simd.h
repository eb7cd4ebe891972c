// The CPU's own operations, each for one thread. Their sources are compiled once for each instruction set
// (Highway's foreach_target) and the best that the machine has is chosen at run time.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>

#include "kernels/backend.h"

namespace fathom::simd {

/// "AVX3", "AVX2", ...: what is chosen here.
std::string target_name();

// elementwise.cpp: as the operations of Backend, for a range of rows.
void rms_norm(std::size_t rows, std::size_t width, const float* x, const float* gain, float eps, float* y,
              std::size_t y_stride);
void rms_norm(std::size_t rows, std::size_t width, const float* x, const float* gain, float eps,
              std::uint16_t* y, std::size_t y_stride);
void rotary(std::size_t rows, std::size_t heads, std::size_t head_dim, const std::int64_t* positions,
            const float* table, float* x, std::size_t stride);
/// A piece of a row of outputs, soft capped in place where the cap is not 0.
struct PieceSummary {
  std::size_t best = 0;  ///< within the piece
  float largest = 0;     ///< NaN if any is not finite
  float second = 0;      ///< the largest of the others
  float sum = 0;         ///< of e^x, x = y - largest
  float weighted = 0;    ///< of x e^x
};
PieceSummary summarise(std::size_t count, float cap, float* y);
void add(std::size_t count, const float* x, float* y);
void softcap(std::size_t count, float c, float* x);

// rounding.cpp
/// quantise_activations of quantise.h for a row, into its place among tiles (product.h), with zeros behind it
/// up to `padded`, whole tiles. Returns the scale.
float to_int8(std::size_t width, std::size_t padded, const float* x, std::int8_t* y);
float to_int8(std::size_t width, std::size_t padded, const std::uint16_t* x, std::int8_t* y);
/// The same with a scale for each 32 values, written once for each `group` (16 or 32) of them, and 16 floats
/// apart (product.h).
void to_int8_groups(std::size_t width, std::size_t padded, std::size_t group, const float* x, std::int8_t* y,
                    float* scales);
void to_int8_groups(std::size_t width, std::size_t padded, std::size_t group, const std::uint16_t* x,
                    std::int8_t* y, float* scales);
/// Sums of groups of `size` (a multiple of 16, at most 64) of a row of to_int8, written 16 integers apart.
void sum_groups(std::size_t groups, std::size_t size, const std::int8_t* row, std::int32_t* sums);
/// Rounds to nearest even, alike at every level.
void to_bf16(std::size_t count, const float* x, std::uint16_t* y);
/// The same, widened again.
void round_to_bf16(std::size_t count, const float* x, float* y);
/// to_bf16 of what products or tiles read next: with AMX, which takes numbers below 2^-126 for 0 as well, by
/// the instruction that makes them 0.
void activations_to_bf16(std::size_t count, const float* x, std::uint16_t* y);
void widen_bf16(std::size_t count, const std::uint16_t* x, float* y);

// store_kv.cpp
/// Writes one KV head's keys and values of a span into its pages.
void store_kv(const KvLayout& layout, const AttentionSpan& span, std::int64_t kv_head, const float* keys,
              const float* values, std::int64_t stride);

}  // namespace fathom::simd
