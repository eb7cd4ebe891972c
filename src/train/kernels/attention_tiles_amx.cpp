#include "train/kernels/attention_tiles_amx.h"

#include "kernels/targets.h"
#include "kernels/tiles.h"
// After targets.h.
#include <hwy/contrib/math/math-inl.h>

#include "kernels/turn-inl.h"
#include "kernels/vectors-inl.h"

static_assert(HWY_STATIC_TARGET == HWY_AVX3, "the flags of this file do not make Highway's AVX3");

namespace fathom::amx {
namespace {

namespace vectors = simd::HWY_NAMESPACE;

constexpr std::int64_t lanes = 16, step = attention_step, row_bytes = 64, tile_bytes = 1024;
constexpr float log2_e = 1.44269504F;
constexpr float lowest = -1e30F;

std::int64_t least(std::int64_t a, std::int64_t b) { return a < b ? a : b; }
std::int64_t most(std::int64_t a, std::int64_t b) { return a < b ? b : a; }

__m512 exp2(__m512 x) { return vectors::coarse_exp2(vectors::Vector{x}).raw; }

// sums[32 rows, 32] = or += rows of A times two panels of B: `steps` times 32 inputs.
void product(HeadRows a, const std::byte* panels, std::int64_t panel_bytes, std::int64_t steps, float* sums,
             std::int64_t stride, bool resumes) {
  const std::uint16_t* lower_a = a.data + 16 * a.stride;
  float* lower = sums + 16 * stride;
  const std::int64_t a_row = a.stride * 2, sum_row = stride * 4;
  if (resumes) {
    _tile_loadd(0, sums, sum_row);
    _tile_loadd(1, sums + lanes, sum_row);
    _tile_loadd(2, lower, sum_row);
    _tile_loadd(3, lower + lanes, sum_row);
  } else {
    _tile_zero(0);
    _tile_zero(1);
    _tile_zero(2);
    _tile_zero(3);
  }
  for (std::int64_t k = 0; k < steps; ++k) {
    _tile_loadd(4, a.data + k * step, a_row);
    _tile_loadd(6, panels + k * tile_bytes, row_bytes);
    _tile_loadd(5, lower_a + k * step, a_row);
    _tile_loadd(7, panels + panel_bytes + k * tile_bytes, row_bytes);
    _tile_dpbf16ps(0, 4, 6);
    _tile_dpbf16ps(2, 5, 6);
    _tile_dpbf16ps(1, 4, 7);
    _tile_dpbf16ps(3, 5, 7);
  }
  _tile_stored(0, sums, sum_row);
  _tile_stored(1, sums + lanes, sum_row);
  _tile_stored(2, lower, sum_row);
  _tile_stored(3, lower + lanes, sum_row);
}

HeadRows from(HeadRows rows, std::int64_t row, std::int64_t column = 0) {
  return {rows.data + row * rows.stride + column, rows.stride};
}

// Which of 32 queries from `query` on see a key.
std::uint32_t seen(const HeadShape& shape, std::int64_t key, std::int64_t query) {
  const auto below = [&](std::int64_t limit) {  // those before position `limit`
    const std::int64_t n = limit - query;
    return n <= 0 ? 0U : n >= step ? ~0U : (1U << static_cast<unsigned>(n)) - 1;
  };
  return (shape.window > 0 ? below(key + shape.window) : ~0U) & ~below(key);
}

// Whether all queries of a step see all keys of one.
bool all_seen(const HeadShape& shape, std::int64_t key, std::int64_t query) {
  return key < query && (shape.window == 0 || query + step - 1 - key < shape.window);
}

std::int64_t first_key(const HeadShape& shape, std::int64_t query) {
  return shape.window > 0 ? most(0, query - shape.window + 1) / step * step : 0;
}
// Behind the queries that see a key of this step.
std::int64_t last_query(const HeadShape& shape, std::int64_t key) {
  if (shape.window == 0) return shape.padded;
  return least(shape.padded, (key + step - 2 + shape.window) / step * step + step);
}

// Two vectors as words: of a in the lower halves.
__m512i words_of(__m512 a, __m512 b) {
  const __m512i order = _mm512_set_epi16(31, 15, 30, 14, 29, 13, 28, 12, 27, 11, 26, 10, 25, 9, 24, 8, 23, 7,
                                         22, 6, 21, 5, 20, 4, 19, 3, 18, 2, 17, 1, 16, 0);
  const __m512bh both = _mm512_cvtne2ps_pbh(b, a);
  return _mm512_permutexvar_epi16(order, reinterpret_cast<const __m512i&>(both));
}

// columns[dim, 32], times factors[32], to the first `count` of 32 rows of bf16. They go past the caches where
// they are whole lines: a normal store would wait for each.
void write_turned(const float* columns, const __m512 (&factors)[2], std::int64_t dim, std::int64_t count,
                  std::uint16_t* to, std::int64_t stride) {
  const bool lines =
      (reinterpret_cast<std::uintptr_t>(to) | static_cast<std::uintptr_t>(stride * 2)) % 64 == 0;
  for (std::int64_t first = 0; first < dim; first += step) {
    for (std::int64_t half = 0; half < 2; ++half) {
      vectors::Square square, turned;
      for (std::int64_t pair = 0; pair < lanes; ++pair) {
        const float* at = columns + (first + 2 * pair) * step + half * lanes;
        const __m512 a = _mm512_mul_ps(_mm512_load_ps(at), factors[half]);
        const __m512 b = _mm512_mul_ps(_mm512_load_ps(at + step), factors[half]);
        _mm512_store_si512(square.words[pair], words_of(a, b));
      }
      vectors::turn(square, turned.words[0], lanes);
      for (std::int64_t row = 0; row < least(lanes, count - half * lanes); ++row) {
        auto* line = reinterpret_cast<__m512i*>(to + (half * lanes + row) * stride + first);
        const __m512i values = _mm512_load_si512(turned.words[row]);
        lines ? _mm512_stream_si512(line, values) : _mm512_storeu_si512(line, values);
      }
    }
  }
}

// Raises tops[32] to the largest of scores[32 keys, 32], among which those not seen become very low.
void raise(const HeadShape& shape, std::int64_t key, std::int64_t query, float* scores, __m512 (&tops)[2]) {
  const bool whole = all_seen(shape, key, query);
  const __m512 low = _mm512_set1_ps(lowest);
  for (std::int64_t row = 0; row < step; ++row, scores += step) {
    __m512 a = _mm512_load_ps(scores), b = _mm512_load_ps(scores + lanes);
    if (!whole) {
      const std::uint32_t mask = seen(shape, key + row, query);
      a = _mm512_mask_mov_ps(low, static_cast<__mmask16>(mask), a);
      b = _mm512_mask_mov_ps(low, static_cast<__mmask16>(mask >> lanes), b);
      _mm512_store_ps(scores, a);
      _mm512_store_ps(scores + lanes, b);
    }
    tops[0] = _mm512_max_ps(tops[0], a);
    tops[1] = _mm512_max_ps(tops[1], b);
  }
}

// 32 queries.
void attend_step(const HeadShape& shape, const HeadForward& head, std::int64_t query) {
  const std::int64_t first = first_key(shape, query), steps = (query + step - first) / step;
  const std::int64_t panel = shape.dim / step * tile_bytes;
  __m512 tops[2] = {_mm512_set1_ps(lowest), _mm512_set1_ps(lowest)};
  for (std::int64_t s = 0; s < steps; ++s) {
    product(from(head.keys, first + s * step), head.queries + query / lanes * panel, panel, shape.dim / step,
            head.scores + s * step * step, step, false);
    // Of the step before, so that no tile is read right after it was written.
    if (s > 0) raise(shape, first + (s - 1) * step, query, head.scores + (s - 1) * step * step, tops);
  }
  raise(shape, first + (steps - 1) * step, query, head.scores + (steps - 1) * step * step, tops);

  const __m512 power = _mm512_set1_ps(shape.scale * log2_e);
  __m512 sums[2] = {_mm512_setzero_ps(), _mm512_setzero_ps()};
  for (std::int64_t half = 0; half < 2; ++half) {
    const __m512 top = _mm512_mul_ps(tops[half], power);
    const float* scores = head.scores + half * lanes;
    std::byte* weights = head.weights + half * steps * tile_bytes;
    for (std::int64_t pair = 0; pair < steps * lanes; ++pair, scores += 2 * step, weights += row_bytes) {
      const __m512 a = exp2(_mm512_fmsub_ps(_mm512_load_ps(scores), power, top));
      const __m512 b = exp2(_mm512_fmsub_ps(_mm512_load_ps(scores + step), power, top));
      sums[half] = _mm512_add_ps(sums[half], _mm512_add_ps(a, b));
      _mm512_store_si512(weights, words_of(a, b));
    }
  }
  // The scores are not needed any more.
  float* turned = head.scores;
  for (std::int64_t i = 0; i < shape.dim; i += step)
    product(from(head.turned_values, i, first), head.weights, steps * tile_bytes, steps, turned + i * step,
            step, false);
  const __m512 one = _mm512_set1_ps(1);
  const __m512 shares[2] = {_mm512_div_ps(one, sums[0]), _mm512_div_ps(one, sums[1])};
  write_turned(turned, shares, shape.dim, least(step, shape.positions - query),
               head.mixed + query * head.mixed_stride, head.mixed_stride);
  for (std::int64_t half = 0; half < 2; ++half) {
    const __m512 log = hwy::HWY_NAMESPACE::Log(vectors::D(), vectors::Vector{sums[half]}).raw;
    const __m512 top = _mm512_mul_ps(tops[half], _mm512_set1_ps(shape.scale));
    _mm512_storeu_ps(head.log_sums + query + half * lanes, _mm512_add_ps(top, log));
  }
}

// 32 keys and queries; scores and products (with the values) [32 keys, 32 queries].
struct Meeting {
  std::int64_t key = 0, query = 0;
  bool last_key = false;  // of the block, for these queries
  float *scores = nullptr, *products = nullptr;
};

// The way back of one block of keys and up to a chunk of queries.
class BlockBack {
 public:
  BlockBack(const HeadShape& shape, const HeadBackward& head, std::int64_t key, std::int64_t query)
      : shape_(shape),
        head_(head),
        key_(key),
        last_key_(least(shape.padded, key + key_block)),
        query_(query),
        last_query_(least(last_query(shape, last_key_ - step), query + query_chunk)) {}

  void run() {
    Meeting before;
    bool any = false;
    std::int64_t turn = 0;
    for (std::int64_t query = query_; query < last_query_; query += step) {
      const std::int64_t first = most(key_, first_key(shape_, query)), last = least(last_key_, query + step);
      for (std::int64_t key = first; key < last; key += step) {
        const Meeting now = {key, query, key + step == last, sums_[turn][0], sums_[turn][1]};
        turn = 1 - turn;
        meet(now);
        // Of the one before, so that no tile is read right after it was written.
        if (any) finish(before);
        before = now;
        any = true;
      }
    }
    if (any) finish(before);
    for (std::int64_t key = key_; key < last_key_; key += step) add_key_gradients(key);
  }

 private:
  std::int64_t panel() const { return shape_.dim / step * tile_bytes; }

  void meet(const Meeting& at) const {
    const std::int64_t first = at.query / lanes * panel(), steps = shape_.dim / step;
    product(from(head_.keys, at.key), head_.queries + first, panel(), steps, at.scores, step, false);
    product(from(head_.values, at.key), head_.packed_gradients + first, panel(), steps, at.products, step,
            false);
  }

  void finish(const Meeting& at) {
    all_seen(shape_, at.key, at.query) ? gradients<false>(at) : gradients<true>(at);
    if (at.last_key) add_query_gradients(at.query);
  }

  // p = 2^(scale s log2(e) - base), ds = scale p (dp - delta): both as rows of keys, ds as pairs of keys,
  // too.
  template <bool Masked>
  void gradients(const Meeting& at) {
    const __m512 scale = _mm512_set1_ps(shape_.scale), power = _mm512_set1_ps(shape_.scale * log2_e);
    const __m512 bases[2] = {_mm512_load_ps(head_.bases + at.query),
                             _mm512_load_ps(head_.bases + at.query + lanes)};
    const __m512 deltas[2] = {_mm512_load_ps(head_.deltas + at.query),
                              _mm512_load_ps(head_.deltas + at.query + lanes)};
    const std::int64_t to = (at.key - key_) * chunk_stride + at.query - query_;
    std::byte* pairs = pairs_[0] + (at.key - key_) / step * tile_bytes;
    for (std::int64_t pair = 0; pair < lanes; ++pair) {
      __m512 slopes[2][2];
      for (std::int64_t i = 0; i < 2; ++i) {
        const std::int64_t row = 2 * pair + i;
        const std::uint32_t mask = Masked ? seen(shape_, at.key + row, at.query) : ~0U;
        __m512 weights[2];
        for (std::int64_t half = 0; half < 2; ++half) {
          const std::int64_t from = row * step + half * lanes;
          weights[half] = exp2(_mm512_fmsub_ps(_mm512_load_ps(at.scores + from), power, bases[half]));
          if constexpr (Masked)
            weights[half] = _mm512_maskz_mov_ps(
                static_cast<__mmask16>(mask >> static_cast<unsigned>(half * lanes)), weights[half]);
          slopes[i][half] = _mm512_mul_ps(_mm512_mul_ps(weights[half], scale),
                                          _mm512_sub_ps(_mm512_load_ps(at.products + from), deltas[half]));
        }
        store_row(weights, head_.weights + to + row * chunk_stride);
        store_row(slopes[i], head_.slopes + to + row * chunk_stride);
      }
      for (std::int64_t half = 0; half < 2; ++half)
        _mm512_store_si512(pairs + half * pairs_panel + pair * row_bytes,
                           words_of(slopes[0][half], slopes[1][half]));
    }
  }

  static void store_row(const __m512 (&values)[2], std::uint16_t* to) {
    const __m512bh both = _mm512_cvtne2ps_pbh(values[1], values[0]);
    _mm512_store_si512(to, reinterpret_cast<const __m512i&>(both));
  }

  // dQ^T += K^T dS^T, of this block's keys.
  void add_query_gradients(std::int64_t query) {
    const std::int64_t all = first_key(shape_, query), first = most(key_, all);
    const std::int64_t steps = (least(last_key_, query + step) - first) / step;
    for (std::int64_t i = 0; i < shape_.dim; i += step)
      product(from(head_.turned_keys, i, first), pairs_[0] + (first - key_) / step * tile_bytes, pairs_panel,
              steps, head_.query_sums + query * shape_.dim + i * step, step, first > all);
  }

  // dV += P^T dO and dK += dS^T Q, of this chunk's queries.
  void add_key_gradients(std::int64_t key) {
    const std::int64_t first = most(query_, key), last = least(last_query_, last_query(shape_, key));
    if (first >= last) return;
    const bool resumes = head_.resumes || first > key;
    const std::int64_t columns = shape_.padded / step * tile_bytes;
    const std::int64_t own = (key - key_) * chunk_stride + first - query_;
    for (std::int64_t i = 0; i < shape_.dim; i += step) {
      const std::int64_t panel = i / lanes * columns + first / step * tile_bytes;
      const std::int64_t to = key * shape_.dim + i, steps = (last - first) / step;
      product({head_.weights + own, chunk_stride}, head_.gradient_columns + panel, columns, steps,
              head_.value_sums + to, shape_.dim, resumes);
      product({head_.slopes + own, chunk_stride}, head_.query_columns + panel, columns, steps,
              head_.key_sums + to, shape_.dim, resumes);
    }
  }

  static constexpr std::int64_t pairs_panel = key_block / step * tile_bytes;

  const HeadShape& shape_;
  const HeadBackward& head_;
  std::int64_t key_, last_key_, query_, last_query_;
  alignas(64) float sums_[2][2][step * step];
  alignas(64) std::byte pairs_[2][pairs_panel];  // two panels of 16 queries
};

// What the softmax's gradient takes of each query: log2 of its sum, and dO O. Zeros of padding get weights
// of 0.
void read_queries(const HeadShape& shape, const HeadBackward& head) {
  for (std::int64_t query = 0; query < shape.padded; ++query) {
    const bool real = query < shape.positions;
    __m512 sum = _mm512_setzero_ps();
    for (std::int64_t i = 0; real && i < shape.dim; i += step) {
      const __m512i a = _mm512_loadu_si512(head.gradients.data + query * head.gradients.stride + i);
      const __m512i b = _mm512_loadu_si512(head.mixed.data + query * head.mixed.stride + i);
      sum = _mm512_dpbf16_ps(sum, reinterpret_cast<const __m512bh&>(a), reinterpret_cast<const __m512bh&>(b));
    }
    head.deltas[query] = _mm512_reduce_add_ps(sum);
    head.bases[query] = real ? head.log_sums[query] * log2_e : -lowest;
  }
}

}  // namespace

void attend(const HeadShape& shape, const HeadForward& head) {
  const TileScope tiles;
  for (std::int64_t query = 0; query < shape.padded; query += step) attend_step(shape, head, query);
  _mm_sfence();
}

void attend_backward(const HeadShape& shape, const HeadBackward& head) {
  const TileScope tiles;
  read_queries(shape, head);
  for (std::int64_t key = 0; key < shape.padded; key += key_block) {
    const std::int64_t last = last_query(shape, least(shape.padded, key + key_block) - step);
    for (std::int64_t query = key; query < last; query += query_chunk)
      BlockBack(shape, head, key, query).run();
  }
  const __m512 ones[2] = {_mm512_set1_ps(1), _mm512_set1_ps(1)};
  for (std::int64_t query = 0; query < shape.padded; query += step)
    write_turned(head.query_sums + query * shape.dim, ones, shape.dim, least(step, shape.positions - query),
                 head.d_queries + query * head.d_stride, head.d_stride);
  _mm_sfence();
}

}  // namespace fathom::amx
