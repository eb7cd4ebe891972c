// The loops behind ceilings.h, each for one thread: `rounds` times a fixed number of operations on registers.
// They return what they computed, so that no compiler leaves it out; nobody needs it.
#pragma once

#include <cstdint>

namespace fathom::ceiling_loops {

/// Independent sums: enough to fill two units of a latency of 4 to 5 cycles, and few enough for 16 registers.
inline constexpr int sums = 12;
/// Runs of memory that a thread reads side by side.
inline constexpr int streams = 8;

// ceilings_LEVEL.cpp: a round is `sums` products of whole vectors.
int avx2_int8(std::int64_t rounds);
int avxvnni_int8(std::int64_t rounds);
int avx512_int8(std::int64_t rounds);
int avx512vnni_int8(std::int64_t rounds);
int avx512bf16_bf16(std::int64_t rounds);
int neon_int8(std::int64_t rounds);
int dotprod_int8(std::int64_t rounds);
int i8mm_int8(std::int64_t rounds);

/// Products of tiles in a round of the two below: [16 x 64 bytes] times [64 bytes x 16].
inline constexpr int tile_products = 8;
// ceilings_amx.cpp
int amx_bf16(std::int64_t rounds);
int amx_int8(std::int64_t rounds);

}  // namespace fathom::ceiling_loops
