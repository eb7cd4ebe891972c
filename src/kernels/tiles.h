// AMX's tiles, for the files named *_amx.cpp alone: they are compiled for AMX and run where isa() says so.
#pragma once

#include <immintrin.h>

#include <cstdint>

namespace fathom::amx {

/// Shapes of the eight tiles: 16 rows of 64 bytes, so that one configuration serves nearly every kernel and
/// operands are padded with zeros instead.
struct alignas(64) TileConfig {
  std::uint8_t palette = 1, start_row = 0;
  std::uint8_t reserved[14] = {};
  std::uint16_t row_bytes[16] = {64, 64, 64, 64, 64, 64, 64, 64};
  std::uint8_t rows[16] = {16, 16, 16, 16, 16, 16, 16, 16};
};

/// Tiles are configured while it lives, on this thread.
class TileScope {
 public:
  // Not _tile_loadconfig: g++ 12's names only the first 8 bytes as input, and the other stores are optimised
  // away.
  explicit TileScope(const TileConfig& config = {}) { __asm__ volatile("ldtilecfg %0" : : "m"(config)); }
  ~TileScope() { _tile_release(); }
  TileScope(const TileScope&) = delete;
  TileScope& operator=(const TileScope&) = delete;
};

}  // namespace fathom::amx
