// softmax(q k) v by tiles with a running maximum and sum (Milakov and Gimelshein 2018; FlashAttention-2, Dao
// 2023; chunks joined at the end: flash decoding). For 16 rows, a page of 64 keys and a head of 64, the tiles
// need 16 products and 8 stores of 16 cycles each, and the softmax 64 vectors of about 12 instructions on two
// ports: 384 and 380 cycles. The two hardly overlap (1,000 cycles were measured, in whatever order): while
// AMX is in use, and for some 200 cycles after, one of the two ports has no 512-bit arithmetic. Exponentials
// in 16-bit integers, with a third of the softmax's instructions less, parts of the tiles' work between its
// rows, and fetching the next page changed nothing: alone, the tiles' loads, products and stores take 540
// cycles, one after another. What is left to win is that nothing waits: the next scores are computed before
// the weights of these, so that no tile is read right after it was written.
#include <immintrin.h>

#include "kernels/attention_bf16_amx.h"
#include "kernels/attention_int8_amx.h"
#include "kernels/attention_steps_amx.h"
#include "kernels/tiles.h"

namespace fathom::amx {
namespace {

constexpr float log2_e = 1.442695041F;

// A row's weights are 2^(s - shift). The shift is a maximum that the row has seen, but it grows only when
// a score exceeds it by a factor of 2^8: the weights are floats either way, and what was gathered is rescaled
// hardly ever.
constexpr float slack = 8;
constexpr float no_shift = -1e30F;  // of a row that has seen no key: 2^(it - any other) is 0

// 2^x for x below 128, 0 for -infinity: 2^floor(x) times a polynomial of smallest relative error, 3e-6, that
// is 1 at 0. The weights are rounded further.
__m512 exp2(__m512 x) {
  const __m512 f = _mm512_reduce_ps(x, _MM_FROUND_TO_NEG_INF | _MM_FROUND_NO_EXC);
  __m512 y = _mm512_set1_ps(1.3426685532e-2F);
  y = _mm512_fmadd_ps(y, f, _mm512_set1_ps(5.2242472175e-2F));
  y = _mm512_fmadd_ps(y, f, _mm512_set1_ps(2.4128020570e-1F));
  y = _mm512_fmadd_ps(y, f, _mm512_set1_ps(6.9304484478e-1F));
  y = _mm512_fmadd_ps(y, f, _mm512_set1_ps(1));
  return _mm512_scalef_ps(y, x);
}

// tanh x = 1 - 2 / (e^2x + 1).
__m512 tanh(__m512 x) {
  const __m512 one = _mm512_set1_ps(1);
  // Beyond 10 it is 1 as a float, and the exponential of more would be infinite.
  const __m512 bounded = _mm512_min_ps(x, _mm512_set1_ps(10));
  const __m512 e = exp2(_mm512_mul_ps(bounded, _mm512_set1_ps(2 * log2_e)));
  return _mm512_sub_ps(one, _mm512_div_ps(_mm512_set1_ps(2), _mm512_add_ps(e, one)));
}

std::int64_t gathered_floats(const AttentionBlock& block) {
  return block.tiles() * gathered_tile_floats(block);
}

std::int64_t lay_out(const AttentionBlock& block, std::byte* memory, Scratch& scratch) {
  std::int64_t used = 0;
  const auto take = [&](std::int64_t bytes) {
    std::byte* part = memory + used;
    used += (bytes + 63) / 64 * 64;
    return part;
  };
  const auto take_floats = [&](std::int64_t count) { return reinterpret_cast<float*>(take(count * 4)); };
  const std::int64_t rows = block.tiles() * tile_rows, element = block.int8() ? 1 : 2;
  scratch.queries = take(rows * block.padded_dim * element);
  scratch.query_scales = take_floats(rows);
  scratch.limits = take_floats(rows);
  for (Turn& turn : scratch.turns)
    turn = {take(16 * page_keys * 4), take(16 * page_keys * element), take_floats(lanes)};
  scratch.products = reinterpret_cast<std::int32_t*>(take(block.int8() ? 16 * block.padded_dim * 4 : 0));
  for (float*& gathered : scratch.gathered) gathered = take_floats(gathered_floats(block));
  return used;
}

// What a row's scores become.
struct Softmax {
  float scale;    // times log2(e)
  float softcap;  // and its scale is 1 times log2(e), the shape's being inside the cap:
  float inner;    // scale / cap
};

// The row's new shift is the largest of its scores so far; rescales what it has gathered.
[[gnu::noinline]] void raise_shift(const Softmax& softmax, __m512 scores, std::int64_t padded_dim,
                                   float* mixed, float* sums, float& shift, float& limit) {
  const float top = _mm512_reduce_max_ps(scores);
  const float raised = top * softmax.scale;
  if (shift != no_shift) {
    const __m512 factor = exp2(_mm512_set1_ps(shift - raised));
    for (std::int64_t i = 0; i < padded_dim; i += lanes)
      _mm512_store_ps(mixed + i, _mm512_mul_ps(_mm512_load_ps(mixed + i), factor));
    _mm512_store_ps(sums, _mm512_mul_ps(_mm512_load_ps(sums), factor));
  }
  shift = raised;
  limit = top + slack / softmax.scale;
}

// Bits [begin, end) of 64.
std::uint64_t bits(std::int64_t begin, std::int64_t end) {
  const auto below = [](std::int64_t n) {
    return n <= 0 ? 0 : n >= 64 ? ~std::uint64_t{0} : (std::uint64_t{1} << static_cast<unsigned>(n)) - 1;
  };
  return below(end) & ~below(begin);
}

// Scores of a step to weights, and their sums. Rows of padding are left as they are.
template <typename Tiles, bool Masked, bool Capped>
void soft_max(const AttentionBlock& block, const Softmax& softmax, const Step& step, const Tiles& tiles,
              const Gathered& gathered, float* limits) {
  const __m512 scale = _mm512_set1_ps(softmax.scale), lowest = _mm512_set1_ps(-__builtin_inff());
  const __m512 cap = _mm512_set1_ps(softmax.softcap), inner = _mm512_set1_ps(softmax.inner);
  const std::int64_t begin = step.tile * tile_rows;
  std::int64_t position = block.first + begin / block.group - step.page * page_keys;  // within the page
  std::int64_t head = begin % block.group;
  for (std::int64_t row = 0; row < step.rows; ++row) {
    std::uint64_t visible = ~std::uint64_t{0};
    if constexpr (Masked) {
      visible = bits(block.window > 0 ? position - block.window + 1 : 0, position + 1);
      if (++head == block.group) ++position, head = 0;
    }
    __m512 s[4];
#pragma GCC unroll 4
    for (int i = 0; i < 4; ++i) {
      s[i] = tiles.scores(row, i);
      if constexpr (Capped) s[i] = _mm512_mul_ps(cap, tanh(_mm512_mul_ps(s[i], inner)));
      if constexpr (Masked)
        s[i] = _mm512_mask_mov_ps(lowest, static_cast<__mmask16>(visible >> (16 * static_cast<unsigned>(i))),
                                  s[i]);
    }
    float* sums = gathered.sums + row * lanes;
    const __m512 top = _mm512_max_ps(_mm512_max_ps(s[0], s[1]), _mm512_max_ps(s[2], s[3]));
    if (_mm512_cmp_ps_mask(top, _mm512_set1_ps(limits[row]), _CMP_GT_OQ) != 0) [[unlikely]]
      raise_shift(softmax, top, block.padded_dim, gathered.mixed + row * block.padded_dim, sums,
                  gathered.shifts[row], limits[row]);
    const __m512 shift = _mm512_set1_ps(gathered.shifts[row]);
#pragma GCC unroll 4
    for (int i = 0; i < 4; ++i) s[i] = exp2(_mm512_fmsub_ps(s[i], scale, shift));
    const __m512 sum = _mm512_add_ps(_mm512_add_ps(s[0], s[1]), _mm512_add_ps(s[2], s[3]));
    _mm512_store_ps(sums, _mm512_add_ps(_mm512_load_ps(sums), sum));
    tiles.weigh(row, s, visible);
  }
}

// Fetches the next unit's keys and values into the L2 cache, a part at each step of this one: a line of each
// of its stretches of 4 KB in turn, since one stream draws 11 GB/s a core and eight 18. Of the newest page
// only what the tiles will read: 16 keys lie in every fourth line, 32 values in the first half.
class Ahead {
 public:
  Ahead(const UpcomingPages& pages, std::int64_t steps) : pages_(pages) {
    if (pages_.block == nullptr) return;
    parts_ = (pages_.end - pages_.first) * 2;
    lines_ = pages_.block->head_bytes() / 64;
    a_step_ = parts_ * lines_ / steps + 1;
  }

  void step() {
    for (std::int64_t i = 0; i < a_step_ && line_ < lines_;) {
      const std::int64_t page = pages_.first + part_ / 2;
      if (is_read(page, part_ % 2 == 0)) {
        const std::int64_t head = part_ % 2 == 0 ? pages_.block->keys : pages_.block->values;
        _mm_prefetch(reinterpret_cast<const char*>(pages_.block->pages[page] + head + line_ * 64),
                     _MM_HINT_T1);
        ++i;
      }
      if (++part_ == parts_) part_ = 0, ++line_;
    }
  }

 private:
  bool is_read(std::int64_t page, bool key) const {
    const std::int64_t positions = pages_.block->first + pages_.block->tokens - page * page_keys;
    if (key) return line_ % 4 * 16 < positions;
    return pages_.block->int8() || positions > 32 || line_ < lines_ / 2;
  }

  UpcomingPages pages_;
  std::int64_t parts_ = 0, lines_ = 0, a_step_ = 0, part_ = 0, line_ = 0;
};

template <typename Tiles>
void run_chunk(const AttentionBlock& block, const Scratch& scratch, std::int64_t chunk, Ahead& ahead,
               float* all_gathered) {
  for (std::int64_t tile = 0; tile < block.tiles(); ++tile) {
    const Gathered gathered = gathered_tile(block, all_gathered, tile);
    for (std::int64_t i = 0; i < tile_rows * (block.padded_dim + lanes); i += lanes)
      _mm512_store_ps(gathered.mixed + i, _mm512_setzero_ps());  // and the sums, which follow
    _mm512_store_ps(gathered.shifts, _mm512_set1_ps(no_shift));
    _mm512_store_ps(scratch.limits + tile * lanes, _mm512_set1_ps(-__builtin_inff()));
  }
  Softmax softmax = {block.scale * log2_e, 0, 0};
  if (block.softcap > 0) softmax = {log2_e, block.softcap, block.scale / block.softcap};
  const auto part = block.softcap > 0 ? soft_max<Tiles, true, true> : soft_max<Tiles, true, false>;
  const auto whole = block.softcap > 0 ? soft_max<Tiles, false, true> : soft_max<Tiles, false, false>;
  const auto finish = [&](const Step& step, const Turn& turn) {
    Tiles::mix(block, step, scratch, turn, gathered_tile(block, all_gathered, step.tile).mixed);
  };

  Steps steps(block, chunk);
  Step before, now, coming;
  bool more = steps.next(now);
  if (more) Tiles::score(block, now, scratch, scratch.turns[0]);
  for (int done = 0; more; ++done) {
    const Turn &turn = scratch.turns[done % 2], &other = scratch.turns[(done + 1) % 2];
    more = steps.next(coming);
    if (more) Tiles::score(block, coming, scratch, other);
    ahead.step();
    if (done > 0) finish(before, other);  // before raise_shift changes what it adds to
    (now.partly_seen ? part : whole)(block, softmax, now, Tiles(block, now, scratch, turn),
                                     gathered_tile(block, all_gathered, now.tile),
                                     scratch.limits + now.tile * lanes);
    if (!more) finish(now, turn);
    before = now;
    now = coming;
  }
}

// Adds what a tile of rows has gathered elsewhere. A side that has seen nothing weighs 0, and the other 1: it
// changes no bit.
void join(std::int64_t rows, std::int64_t padded_dim, const Gathered& to, const Gathered& from) {
  for (std::int64_t row = 0; row < rows; ++row) {
    const float shift = to.shifts[row] < from.shifts[row] ? from.shifts[row] : to.shifts[row];
    const __m512 own = exp2(_mm512_set1_ps(to.shifts[row] - shift));
    const __m512 other = exp2(_mm512_set1_ps(from.shifts[row] - shift));
    const auto add = [&](float* a, const float* b) {
      _mm512_store_ps(a, _mm512_fmadd_ps(_mm512_load_ps(a), own, _mm512_mul_ps(_mm512_load_ps(b), other)));
    };
    for (std::int64_t i = row * padded_dim; i < (row + 1) * padded_dim; i += lanes)
      add(to.mixed + i, from.mixed + i);
    add(to.sums + row * lanes, from.sums + row * lanes);
    to.shifts[row] = shift;
  }
}

void join_all(const AttentionBlock& block, float* to, float* from) {
  for (std::int64_t tile = 0; tile < block.tiles(); ++tile)
    join(least(tile_rows, block.rows() - tile * tile_rows), block.padded_dim, gathered_tile(block, to, tile),
         gathered_tile(block, from, tile));
}

void write_out(const AttentionBlock& block, float* all_gathered) {
  for (std::int64_t row = 0; row < block.rows(); ++row) {
    const Gathered gathered = gathered_tile(block, all_gathered, row / tile_rows);
    const std::int64_t within = row % tile_rows;
    const __m512 inverse =
        _mm512_set1_ps(1 / _mm512_reduce_add_ps(_mm512_load_ps(gathered.sums + within * lanes)));
    const std::int64_t to = row / block.group * block.out_stride + row % block.group * block.head_dim;
    const float* mixed = gathered.mixed + within * block.padded_dim;
    for (std::int64_t i = 0; i < block.head_dim; i += lanes) {
      const auto mask = first_lanes(block.head_dim - i);
      const __m512 value = _mm512_mul_ps(_mm512_load_ps(mixed + i), inverse);
      if (block.out_bf16) {
        const auto narrow = _mm512_cvtneps_pbh(value);
        _mm256_mask_storeu_epi16(block.out + (to + i) * 2, mask, reinterpret_cast<const __m256i&>(narrow));
      } else {
        _mm512_mask_storeu_ps(block.out + (to + i) * 4, mask, value);
      }
    }
  }
}

struct Kind {
  void (*pack_queries)(const AttentionBlock&, const Scratch&);
  void (*run_chunk)(const AttentionBlock&, const Scratch&, std::int64_t, Ahead&, float*);
};

Kind kind_of(const AttentionBlock& block) {
  if (block.int8()) return {Int8Tiles::pack_queries, run_chunk<Int8Tiles>};
  return {Bf16Tiles::pack_queries, run_chunk<Bf16Tiles>};
}

std::int64_t attention_scratch_bytes(const AttentionBlock& block) {
  Scratch scratch = {};
  return lay_out(block, nullptr, scratch);
}

void attention(const AttentionBlock& block, const UpcomingPages& upcoming, std::byte* memory) {
  const TileScope tiles;
  Scratch scratch = {};
  lay_out(block, memory, scratch);
  const Kind kind = kind_of(block);
  kind.pack_queries(block, scratch);
  const std::int64_t first = block.first_chunk();
  Ahead ahead(upcoming, (block.end_page() - block.first_page()) * block.tiles());
  kind.run_chunk(block, scratch, first, ahead, scratch.gathered[0]);
  for (std::int64_t chunk = first + 1; chunk < block.end_chunk(); ++chunk) {
    kind.run_chunk(block, scratch, chunk, ahead, scratch.gathered[1]);
    join_all(block, scratch.gathered[0], scratch.gathered[1]);
  }
  write_out(block, scratch.gathered[0]);
}

void attention_chunk(const AttentionBlock& block, std::int64_t chunk, const UpcomingPages& upcoming,
                     float* gathered, std::byte* memory) {
  const TileScope tiles;
  Scratch scratch = {};
  lay_out(block, memory, scratch);
  const Kind kind = kind_of(block);
  kind.pack_queries(block, scratch);
  Ahead ahead(upcoming, attention_chunk_pages * block.tiles());
  kind.run_chunk(block, scratch, chunk, ahead, gathered);
}

void join_chunks(const AttentionBlock& block, float* gathered) {
  const std::int64_t size = gathered_floats(block);
  for (std::int64_t chunk = 1; chunk < block.chunks(); ++chunk)
    join_all(block, gathered, gathered + chunk * size);
  write_out(block, gathered);
}

}  // namespace

AttentionKernel attention_kernel() {
  // Of 64 rows a page of keys and values, 16 KB for heads of 64 in bf16, is fetched into the L1 cache once,
  // beside their queries and sums. A page of one tile takes some 0.2 us.
  return {.block_rows = 64,
          .serial_pages = 12,
          .scratch_bytes = attention_scratch_bytes,
          .gathered_floats = gathered_floats,
          .attend = attention,
          .attend_chunk = attention_chunk,
          .join_chunks = join_chunks};
}

}  // namespace fathom::amx
