// Attention over bf16 pages: queries and the softmax's weights are rounded to bf16.
#pragma once

#include "kernels/attention_steps_amx.h"

namespace fathom::amx {

class Bf16Tiles {
 public:
  /// Rounds the block's queries to bf16; rows and columns of padding are zeros.
  static void pack_queries(const AttentionBlock& block, const Scratch& scratch) {
    auto* to = reinterpret_cast<std::uint16_t*>(scratch.queries);
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

  /// turn.scores = the tile's queries times the page's keys.
  static void score(const AttentionBlock& block, const Step& step, const Scratch& scratch, const Turn& turn) {
    const auto* queries =
        reinterpret_cast<const std::uint16_t*>(scratch.queries) + step.tile * tile_rows * block.padded_dim;
    const std::byte* keys = block.pages[step.page] + block.keys;
    auto* scores = reinterpret_cast<float*>(turn.scores);
    if (step.keys > 48)
      score_page(queries, keys, block.padded_dim, scores);
    else
      score_columns(queries, keys, block.padded_dim, step.keys, scores);
  }

  /// Reads the scores of a step and writes its weights.
  Bf16Tiles(const AttentionBlock& /*block*/, const Step& /*step*/, const Scratch& /*scratch*/,
            const Turn& turn)
      : scores_(reinterpret_cast<const float*>(turn.scores)),
        weights_(reinterpret_cast<std::uint16_t*>(turn.weights)) {}

  /// Of a row's keys [16 i, 16 i + 16).
  __m512 scores(std::int64_t row, int i) const {
    return _mm512_load_ps(scores_ + row * page_keys + i * lanes);
  }

  /// A row's weights of all 64 keys.
  void weigh(std::int64_t row, const __m512 (&w)[4], std::uint64_t /*visible*/) const {
    std::uint16_t* to = weights_ + row * page_keys;
    const auto low = _mm512_cvtne2ps_pbh(w[1], w[0]), high = _mm512_cvtne2ps_pbh(w[3], w[2]);
    _mm512_store_si512(to, reinterpret_cast<const __m512i&>(low));
    _mm512_store_si512(to + 32, reinterpret_cast<const __m512i&>(high));
  }

  /// mixed += the weights times the page's values.
  static void mix(const AttentionBlock& block, const Step& step, const Scratch& /*scratch*/, const Turn& turn,
                  float* mixed) {
    mix_halves(reinterpret_cast<const std::uint16_t*>(turn.weights), block.pages[step.page] + block.values,
               block.padded_dim, step.keys > 32, mixed);
  }

 private:
  // scores[16, 64] = queries[16, padded_dim] keys[padded_dim, 64]. Each product has its own tile to load, but
  // that takes 8 cycles and the product 16.
  static void score_page(const std::uint16_t* queries, const std::byte* keys, std::int64_t padded_dim,
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
  static void score_columns(const std::uint16_t* queries, const std::byte* keys, std::int64_t padded_dim,
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
  static void mix_halves(const std::uint16_t* weights, const std::byte* values, std::int64_t padded_dim,
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

  const float* scores_;
  std::uint16_t* weights_;
};

}  // namespace fathom::amx
