// Products of tiles for attention_amx.cpp: queries by keys, weights by values.
#pragma once

#include "kernels/attention_steps_amx.h"

namespace fathom::amx {

/// Rounds the block's queries to bf16; rows and columns of padding are zeros.
inline void pack_queries(const AttentionBlock& block, std::uint16_t* to) {
  std::int64_t token = 0, head = 0;
  for (std::int64_t row = 0; row < block.tiles() * tile_rows; ++row, to += block.padded_dim) {
    const std::int64_t readable = row < block.rows() ? block.head_dim : 0;
    const float* from = block.queries + token * block.query_stride + head * block.head_dim;
    for (std::int64_t i = 0; i < block.padded_dim; i += lanes) {
      const auto narrow = _mm512_cvtneps_pbh(_mm512_maskz_loadu_ps(first_lanes(readable - i), from + i));
      _mm256_store_si256(reinterpret_cast<__m256i*>(to + i), reinterpret_cast<const __m256i&>(narrow));
    }
    if (row + 1 < block.rows() && ++head == block.group) ++token, head = 0;
  }
}

// scores[16, 64] = queries[16, padded_dim] keys[padded_dim, 64]. Each product has its own tile to load, but
// that takes 8 cycles and the product 16.
inline void score(const std::uint16_t* queries, const std::byte* keys, std::int64_t padded_dim,
                  float* scores) {
  _tile_zero(0);
  _tile_zero(1);
  _tile_zero(2);
  _tile_zero(3);
  for (std::int64_t d = 0; d < padded_dim; d += 32, keys += 16 * page_keys * 4) {
    _tile_loadd(4, queries + d, padded_dim * 2);
    _tile_loadd(5, keys, page_keys * 4);
    _tile_dpbf16ps(0, 4, 5);
    _tile_loadd(6, keys + 64, page_keys * 4);
    _tile_dpbf16ps(1, 4, 6);
    _tile_loadd(5, keys + 128, page_keys * 4);
    _tile_dpbf16ps(2, 4, 5);
    _tile_loadd(6, keys + 192, page_keys * 4);
    _tile_dpbf16ps(3, 4, 6);
  }
  _tile_stored(0, scores, page_keys * 4);
  _tile_stored(1, scores + 16, page_keys * 4);
  _tile_stored(2, scores + 32, page_keys * 4);
  _tile_stored(3, scores + 48, page_keys * 4);
}

// Some of the 64 columns of that: the page of a sequence's newest tokens is often not half full, and a
// single token's attention is bound by reading it.
inline void score_columns(const std::uint16_t* queries, const std::byte* keys, std::int64_t padded_dim,
                          std::int64_t columns, float* scores) {
  for (std::int64_t column = 0; column < columns; column += 16) {
    _tile_zero(0);
    for (std::int64_t d = 0; d < padded_dim; d += 32) {
      _tile_loadd(4, queries + d, padded_dim * 2);
      _tile_loadd(5, keys + d / 2 * page_keys * 4 + column * 4, page_keys * 4);
      _tile_dpbf16ps(0, 4, 5);
    }
    _tile_stored(0, scores + column, page_keys * 4);
  }
}

// mixed[16, padded_dim] += weights[16, 64] values[64, padded_dim], 32 columns at a time.
// The second half of the page's keys weighs 0 where only the first is seen.
inline void mix(const std::uint16_t* weights, const std::byte* values, std::int64_t padded_dim,
                bool both_halves, float* mixed) {
  const std::int64_t stride = padded_dim * 4;  // bytes of a row of mixed, and of a pair of rows of values
  const std::byte* more = values + 16 * stride;
  _tile_loadd(4, weights, page_keys * 2);
  _tile_loadd(5, weights + 32, page_keys * 2);
  for (std::int64_t d = 0; d < padded_dim; d += 32) {
    _tile_loadd(0, mixed + d, stride);
    _tile_loadd(6, values + d * 4, stride);
    _tile_dpbf16ps(0, 4, 6);
    _tile_loadd(1, mixed + d + 16, stride);
    _tile_loadd(7, values + d * 4 + 64, stride);
    _tile_dpbf16ps(1, 4, 7);
    if (both_halves) {
      _tile_loadd(2, more + d * 4, stride);
      _tile_dpbf16ps(0, 5, 2);
      _tile_loadd(3, more + d * 4 + 64, stride);
      _tile_dpbf16ps(1, 5, 3);
    }
    _tile_stored(0, mixed + d, stride);
    _tile_stored(1, mixed + d + 16, stride);
  }
}

/// int8 without its scales as bf16, which holds all of it: `count` elements, a multiple of 32. A page of one
/// head takes 0.3 us, and a block does it once for all its tiles. Products of int8 tiles instead need queries
/// and weights in two halves of 8 bits to lose nothing: a prompt's attention then took 2.6 to 3.6 times as
/// long as in bf16, and so 1.3.
inline void widen(const std::byte* from, std::int64_t count, std::byte* to) {
  const auto wide = [](const std::byte* bytes) {
    const __m128i narrow = _mm_load_si128(reinterpret_cast<const __m128i*>(bytes));
    return _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(narrow));
  };
  for (std::int64_t i = 0; i < count; i += 32) {
    const auto both = _mm512_cvtne2ps_pbh(wide(from + i + 16), wide(from + i));
    _mm512_store_si512(to + i * 2, reinterpret_cast<const __m512i&>(both));
  }
}

}  // namespace fathom::amx
