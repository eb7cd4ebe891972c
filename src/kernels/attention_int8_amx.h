// Attention over int8 pages by tiles of integers: a query is rounded to 8 bits with a scale, and so are a
// row's weights of a page, in parts of the largest of them; sums are exact. Widening a page to bf16 instead
// takes 0.3 us, which left nothing of what is gained by reading half the bytes; and queries and weights in
// two halves of 8 bits made a prompt's attention 2.6 times as slow as in bf16.
#pragma once

#include <bit>

#include "kernels/attention_steps_amx.h"

namespace fathom::amx {

class Int8Tiles {
 public:
  /// Rounds the block's queries; rows and columns of padding are zeros. A query that is not a number gets
  /// such a scale.
  static void pack_queries(const AttentionBlock& block, const Scratch& scratch) {
    std::int64_t token = 0, head = 0;
    for (std::int64_t row = 0; row < block.tiles() * tile_rows; ++row) {
      const std::int64_t readable = row < block.rows() ? block.head_dim : 0;
      const float* from = block.queries + token * block.query_stride + head * block.head_dim;
      // Magnitudes compare as their bits do, NaN above all.
      __m512i magnitudes = _mm512_setzero_si512();
      for (std::int64_t i = 0; i < readable; i += lanes)
        magnitudes = _mm512_max_epi32(
            magnitudes, _mm512_and_si512(_mm512_maskz_loadu_epi32(first_lanes(readable - i), from + i),
                                         _mm512_set1_epi32(0x7fffffff)));
      const auto most = std::bit_cast<float>(_mm512_reduce_max_epi32(magnitudes));
      scratch.query_scales[row] = most / 127;
      const __m512 inverse = _mm512_set1_ps(most > 0 ? 127 / most : 0);
      std::byte* to = scratch.queries + row * block.padded_dim;
      for (std::int64_t i = 0; i < block.padded_dim; i += lanes) {
        const __m512 query = _mm512_maskz_loadu_ps(first_lanes(readable - i), from + i);
        const __m512i whole = _mm512_cvtps_epi32(_mm512_mul_ps(query, inverse));
        _mm_store_si128(reinterpret_cast<__m128i*>(to + i), _mm512_cvtepi32_epi8(whole));
      }
      if (row + 1 < block.rows() && ++head == block.group) ++token, head = 0;
    }
  }

  /// turn.scores = the tile's queries times the page's keys, integers; 16 keys at a time, and of a sequence's
  /// newest page no more than there are.
  static void score(const AttentionBlock& block, const Step& step, const Scratch& scratch, const Turn& turn) {
    const std::byte* queries = scratch.queries + step.tile * tile_rows * block.padded_dim;
    const std::byte* keys = block.pages[step.page] + block.keys;
    for (std::int64_t column = 0; column < step.keys; column += 16) {
      _tile_zero(0);
      for (std::int64_t d = 0; d < block.padded_dim; d += 64) {
        _tile_loadd(4, queries + d, block.padded_dim);
        _tile_loadd(5, keys + (d / 4 * page_keys + column) * 4, page_keys * 4);
        _tile_dpbssd(0, 4, 5);
      }
      _tile_stored(0, turn.scores + column * 4, page_keys * 4);
    }
  }

  /// Reads the scores of a step and writes its weights.
  Int8Tiles(const AttentionBlock& block, const Step& step, const Scratch& scratch, const Turn& turn)
      : scores_(reinterpret_cast<const std::int32_t*>(turn.scores)),
        turn_(turn),
        query_scales_(scratch.query_scales + step.tile * tile_rows),
        key_scales_(scales(block, step, block.keys)),
        value_scales_(scales(block, step, block.values)) {}

  /// Of a row's keys [16 i, 16 i + 16).
  __m512 scores(std::int64_t row, int i) const {
    const __m512 whole = _mm512_cvtepi32_ps(_mm512_load_si512(scores_ + row * page_keys + i * lanes));
    const __m512 scale =
        _mm512_mul_ps(_mm512_set1_ps(query_scales_[row]), _mm512_load_ps(key_scales_ + i * lanes));
    return _mm512_mul_ps(whole, scale);
  }

  /// A row's weights of all 64 keys, each times its value's scale.
  void weigh(std::int64_t row, const __m512 (&w)[4], std::uint64_t visible) const {
    __m512 scaled[4];
#pragma GCC unroll 4
    for (int i = 0; i < 4; ++i)
      scaled[i] = _mm512_maskz_mul_ps(static_cast<__mmask16>(visible >> (16 * static_cast<unsigned>(i))),
                                      w[i], _mm512_load_ps(value_scales_ + i * lanes));
    const float most = _mm512_reduce_max_ps(
        _mm512_max_ps(_mm512_max_ps(scaled[0], scaled[1]), _mm512_max_ps(scaled[2], scaled[3])));
    turn_.weight_scales[row] = most / 255;
    const __m512 inverse = _mm512_set1_ps(most > 0 ? 255 / most : 0);
    std::byte* to = turn_.weights + row * page_keys;
#pragma GCC unroll 4
    for (int i = 0; i < 4; ++i) {
      const __m512i whole = _mm512_cvtps_epi32(_mm512_mul_ps(scaled[i], inverse));
      _mm_store_si128(reinterpret_cast<__m128i*>(to + i * lanes), _mm512_cvtepi32_epi8(whole));
    }
  }

  /// mixed += the weights times the page's values.
  static void mix(const AttentionBlock& block, const Step& step, const Scratch& scratch, const Turn& turn,
                  float* mixed) {
    const std::byte* values = block.pages[step.page] + block.values;
    _tile_loadd(4, turn.weights, page_keys);
    for (std::int64_t d = 0; d < block.padded_dim; d += lanes) {
      _tile_zero(0);
      _tile_loadd(5, values + d * 4, block.padded_dim * 4);
      _tile_dpbusd(0, 4, 5);
      _tile_stored(0, scratch.products + d, block.padded_dim * 4);
    }
    for (std::int64_t row = 0; row < step.rows; ++row) {
      const std::int32_t* products = scratch.products + row * block.padded_dim;
      const __m512 scale = _mm512_set1_ps(turn.weight_scales[row]);
      float* to = mixed + row * block.padded_dim;
      for (std::int64_t i = 0; i < block.padded_dim; i += lanes)
        _mm512_store_ps(to + i, _mm512_fmadd_ps(_mm512_cvtepi32_ps(_mm512_load_si512(products + i)), scale,
                                                _mm512_load_ps(to + i)));
    }
  }

 private:
  // Behind a head's keys, or its values.
  static const float* scales(const AttentionBlock& block, const Step& step, std::int64_t part) {
    return reinterpret_cast<const float*>(block.pages[step.page] + part + block.padded_dim * page_keys);
  }

  const std::int32_t* scores_;
  const Turn& turn_;
  const float *query_scales_, *key_scales_, *value_scales_;
};

}  // namespace fathom::amx
