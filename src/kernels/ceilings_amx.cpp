#include "kernels/ceiling_loops.h"
#include "kernels/tiles.h"

namespace fathom::ceiling_loops {
namespace {

// Four sums, two tiles of each operand: as a product of 32 x 32 outputs would use them, without its loads.
template <class Body>
int with_zero_tiles(std::int64_t rounds, Body body) {
  const amx::TileScope scope;
  _tile_zero(0);
  _tile_zero(1);
  _tile_zero(2);
  _tile_zero(3);
  _tile_zero(4);
  _tile_zero(5);
  _tile_zero(6);
  _tile_zero(7);
  for (std::int64_t i = 0; i < rounds; ++i) {
    for (int half = 0; half < tile_products / 4; ++half) body();
  }
  alignas(64) int out[16 * 16];
  _tile_stored(0, out, 64);
  return out[0];
}

}  // namespace

int amx_bf16(std::int64_t rounds) {
  return with_zero_tiles(rounds, [] {
    _tile_dpbf16ps(0, 4, 6);
    _tile_dpbf16ps(1, 4, 7);
    _tile_dpbf16ps(2, 5, 6);
    _tile_dpbf16ps(3, 5, 7);
  });
}

int amx_int8(std::int64_t rounds) {
  return with_zero_tiles(rounds, [] {
    _tile_dpbssd(0, 4, 6);
    _tile_dpbssd(1, 4, 7);
    _tile_dpbssd(2, 5, 6);
    _tile_dpbssd(3, 5, 7);
  });
}

}  // namespace fathom::ceiling_loops
