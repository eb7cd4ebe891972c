// What attention_amx.cpp and its two kinds of tiles (attention_bf16_amx.h, attention_int8_amx.h) share: a
// block's steps, its scratch, what its rows gather.
#pragma once

#include <immintrin.h>

#include <cstddef>
#include <cstdint>

#include "kernels/attention_block.h"

namespace fathom::amx {

inline constexpr std::int64_t tile_rows = 16, page_keys = 64, lanes = 16;

inline std::int64_t least(std::int64_t a, std::int64_t b) { return a < b ? a : b; }
inline std::int64_t largest(std::int64_t a, std::int64_t b) { return a < b ? b : a; }
/// The first `count` of 16 lanes, none where it is negative.
inline __mmask16 first_lanes(std::int64_t count) {
  return static_cast<__mmask16>((1U << static_cast<unsigned>(least(lanes, largest(0, count)))) - 1);
}

/// What a tile of 16 rows has gathered over one chunk: sum and mix of the values with weights 2^(s - shift),
/// where 2^s is e^score: mixed [16, padded_dim], sums [16, 16] (the sum of a row is that of its 16), shifts
/// [16].
struct Gathered {
  float *mixed, *sums, *shifts;
};

inline std::int64_t gathered_tile_floats(const AttentionBlock& block) {
  return tile_rows * (block.padded_dim + lanes) + lanes;
}

inline Gathered gathered_tile(const AttentionBlock& block, float* gathered, std::int64_t tile) {
  float* mixed = gathered + tile * gathered_tile_floats(block);
  float* sums = mixed + tile_rows * block.padded_dim;
  return {mixed, sums, sums + tile_rows * lanes};
}

/// Of one step: one is being filled while the other is read.
struct Turn {
  std::byte* scores;     ///< [16, 64], 4 bytes each
  std::byte* weights;    ///< [16, 64], 2 bytes each, in int8 1
  float* weight_scales;  ///< int8: [16]
};

/// Scratch of one block.
struct Scratch {
  std::byte* queries;   ///< [tiles * 16, padded_dim], 2 bytes each, in int8 1
  float* query_scales;  ///< int8: [tiles * 16]
  float* limits;        ///< [tiles * 16]: the largest score up to which a row keeps its shift
  Turn turns[2];
  std::int32_t* products;  ///< int8: [16, padded_dim], weights times values of a step
  float* gathered[2];      ///< over all chunks; in one
};

/// A tile of 16 rows of a block and a page that at least one of them sees something of.
struct Step {
  std::int64_t tile = 0, page = 0;
  std::int64_t rows = 0;     // of the tile that are not padding
  std::int64_t keys = 0;     // of the page that some row sees, from its beginning
  bool partly_seen = false;  // by some row
};

/// The steps of one chunk: for each page all tiles, so that they find it in the L1 cache.
class Steps {
 public:
  Steps(const AttentionBlock& block, std::int64_t chunk)
      : block_(block),
        end_(least(block.end_page(), (chunk + 1) * attention_chunk_pages)),
        tile_(-1),
        page_(largest(block.first_page(), chunk * attention_chunk_pages)) {}

  bool next(Step& step) {
    for (;;) {
      if (++tile_ == block_.tiles()) tile_ = 0, ++page_;
      if (page_ >= end_) return false;
      const std::int64_t first_row = tile_ * tile_rows;
      const std::int64_t rows = least(block_.rows() - first_row, tile_rows);
      const std::int64_t oldest = block_.first + first_row / block_.group;
      const std::int64_t newest = block_.first + (first_row + rows - 1) / block_.group;
      const std::int64_t begin = page_ * page_keys, end = begin + page_keys;
      const bool windowed = block_.window > 0;
      if (begin > newest || (windowed && end <= oldest - block_.window + 1)) continue;
      step = {tile_, page_, rows, least(page_keys, newest + 1 - begin),
              end > oldest + 1 || (windowed && begin < newest - block_.window + 1)};
      return true;
    }
  }

 private:
  const AttentionBlock& block_;
  std::int64_t end_, tile_, page_;
};

}  // namespace fathom::amx
