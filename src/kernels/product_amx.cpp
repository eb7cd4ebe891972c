// Products by AMX's tiles: 16 rows of activations times 16 outputs at once, 32 (bf16) or 64 (int8) inputs an
// instruction.
#include <cstring>

#include "kernels/product.h"
#include "kernels/quantise.h"
#include "kernels/stretch.h"
#include "kernels/targets.h"
#include "kernels/tiles.h"
// After targets.h.
#include "kernels/block_writer-inl.h"

static_assert(HWY_STATIC_TARGET == HWY_AVX3, "the flags of this file do not make Highway's AVX3");

namespace fathom::products {
namespace {

std::int64_t least(std::int64_t a, std::int64_t b) { return a < b ? a : b; }

constexpr std::int64_t tile_rows = 16, tile_bytes = 1024, row_bytes = 64;

// Where tiles of activations lie: bytes between blocks of 16 rows, between the rows of a tile, and from one
// tile to the next inputs' one.
struct Layout {
  const std::byte* data;
  std::int64_t block, row, step;

  const std::byte* at(std::int64_t first_row) const { return data + first_row / tile_rows * block; }
};

Layout layout_of(const Activations& x, bool integers) {
  if (integers) return {x.data, x.stride, row_bytes, tile_bytes};
  return {x.data, x.stride * tile_rows, x.stride, row_bytes};
}

// One instruction for either type; tiles are named by numbers in the code.
#define FATHOM_TILE_PRODUCT(sum, a, b) \
  do {                                 \
    if constexpr (integers)            \
      _tile_dpbssd(sum, a, b);         \
    else                               \
      _tile_dpbf16ps(sum, a, b);       \
  } while (false)

// What comes by once leaves the L1 cache first, and what is read again stays.
#define FATHOM_TILE_LOAD(tile, from, stride, once) \
  do {                                             \
    if (once)                                      \
      _tile_stream_loadd(tile, from, stride);      \
    else                                           \
      _tile_loadd(tile, from, stride);             \
  } while (false)

// A block of sums, 32 rows of 32 outputs as 2 x 2 tiles: rows lie so many bytes apart.
struct SumBlock {
  std::byte* sums;
  std::int64_t row;

  std::byte* lower() const { return sums + tile_rows * row; }
};

// 32 rows x 2 panels in four tiles of sums: 4 KB of operands are loaded for 4 products of 16 cycles. `steps`
// tiles of inputs; a panel's successor begins `panel_bytes` after it. The sums go on from what is there with
// `resume`. Either the weights or the rows come by once.
template <bool integers, typename Between>
void tiles_2x2(const Layout& layout, const std::byte* x, const std::byte* weights, std::int64_t panel_bytes,
               std::int64_t steps, const SumBlock& to, bool resume, bool weights_once,
               const Between& between) {
  const std::byte* lower = x + layout.block;
  if (resume) {
    _tile_loadd(0, to.sums, to.row);
    _tile_loadd(1, to.sums + row_bytes, to.row);
    _tile_loadd(2, to.lower(), to.row);
    _tile_loadd(3, to.lower() + row_bytes, to.row);
  } else {
    _tile_zero(0);
    _tile_zero(1);
    _tile_zero(2);
    _tile_zero(3);
  }
  for (std::int64_t k = 0; k < steps; ++k) {
    FATHOM_TILE_LOAD(4, x + k * layout.step, layout.row, !weights_once);
    FATHOM_TILE_LOAD(6, weights + k * tile_bytes, row_bytes, weights_once);
    FATHOM_TILE_LOAD(5, lower + k * layout.step, layout.row, !weights_once);
    FATHOM_TILE_LOAD(7, weights + panel_bytes + k * tile_bytes, row_bytes, weights_once);
    FATHOM_TILE_PRODUCT(0, 4, 6);
    FATHOM_TILE_PRODUCT(2, 5, 6);
    FATHOM_TILE_PRODUCT(1, 4, 7);
    FATHOM_TILE_PRODUCT(3, 5, 7);
    between(k);
  }
  _tile_stored(0, to.sums, to.row);
  _tile_stored(1, to.sums + row_bytes, to.row);
  _tile_stored(2, to.lower(), to.row);
  _tile_stored(3, to.lower() + row_bytes, to.row);
}

// 16 rows x 4 panels, for up to 16 rows: bound by reading the weights, from four streams.
template <bool integers>
void tiles_1x4(const Layout& layout, const std::byte* x, const std::byte* weights, std::int64_t panel_bytes,
               std::int64_t steps, std::byte* sums) {
  _tile_zero(0);
  _tile_zero(1);
  _tile_zero(2);
  _tile_zero(3);
  for (std::int64_t k = 0; k < steps; ++k) {
    const std::byte* b = weights + k * tile_bytes;
    _tile_loadd(4, x + k * layout.step, layout.row);
    _tile_loadd(5, b, row_bytes);
    FATHOM_TILE_PRODUCT(0, 4, 5);
    _tile_loadd(6, b + panel_bytes, row_bytes);
    FATHOM_TILE_PRODUCT(1, 4, 6);
    _tile_loadd(7, b + 2 * panel_bytes, row_bytes);
    FATHOM_TILE_PRODUCT(2, 4, 7);
    _tile_loadd(5, b + 3 * panel_bytes, row_bytes);
    FATHOM_TILE_PRODUCT(3, 4, 5);
  }
  _tile_stored(0, sums, 256);
  _tile_stored(1, sums + 64, 256);
  _tile_stored(2, sums + 128, 256);
  _tile_stored(3, sums + 192, 256);
}

template <bool integers>
void tiles_1x1(const Layout& layout, const std::byte* x, const std::byte* weights, std::int64_t steps,
               std::byte* sums) {
  _tile_zero(0);
  for (std::int64_t k = 0; k < steps; ++k) {
    _tile_loadd(4, x + k * layout.step, layout.row);
    _tile_loadd(6, weights + k * tile_bytes, row_bytes);
    FATHOM_TILE_PRODUCT(0, 4, 6);
  }
  _tile_stored(0, sums, 64);
}

// A group's multiplier for each of 16 outputs, in both halves of 32 bits.
__m512i multiplier_pairs(const std::int8_t* multipliers) {
  const __m512i whole = _mm512_cvtepi8_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(multipliers)));
  return _mm512_or_si512(_mm512_and_si512(whole, _mm512_set1_epi32(0xffff)), _mm512_slli_epi32(whole, 16));
}

// A panel of int4 as 8-bit tiles: each row of `panel` holds two of `to`, each weight times its group's
// multiplier: at most 8 * 15 in magnitude. A product of 16 bits has the right lower byte whatever is in the
// upper one, and the right upper byte where the lower one is 0.
void widen_panel(const PackedMatrix& weight, const std::byte* panel, std::byte* to) {
  const __m512i low = _mm512_set1_epi8(15), zero = _mm512_set1_epi8(static_cast<char>(weight.zero()));
  constexpr std::int64_t rows_of_group = group_size / 8;
  __m512i factors = _mm512_setzero_si512();
  const auto put = [&](__m512i weights, std::byte* at) {
    const __m512i values = _mm512_sub_epi8(weights, zero);
    constexpr __mmask64 upper_bytes = 0xaaaaaaaaaaaaaaaa;
    const __m512i upper = _mm512_mullo_epi16(_mm512_maskz_mov_epi8(upper_bytes, values), factors);
    _mm512_storeu_si512(at, _mm512_mask_mov_epi8(_mm512_mullo_epi16(values, factors), upper_bytes, upper));
  };
  for (std::int64_t s = 0; s < weight.stretches(); ++s) {
    StretchRoom none;
    const Stretch stretch = read_stretch(weight, panel, s, true, none);
    for (std::int64_t row = 0; row < stretch.inputs / 8; ++row, to += 128) {
      if (row % rows_of_group == 0)
        factors = multiplier_pairs(stretch.multipliers + row / rows_of_group * panel_outputs);
      const __m512i both = _mm512_loadu_si512(stretch.weights + row * 64);
      put(_mm512_and_si512(both, low), to);
      put(_mm512_and_si512(_mm512_srli_epi16(both, 4), low), to + 64);
    }
  }
}

// Panels as tiles; those of 4 bits in scratch.
struct TilePanels {
  const std::byte* weights = nullptr;
  std::int64_t bytes = 0;  // from one panel to the next
};

TilePanels tile_panels(const PackedMatrix& weight, std::int64_t panel, std::int64_t count,
                       std::byte* scratch) {
  if (!weight.four_bits()) return {weight.panel(panel), weight.panel_bytes()};
  const std::int64_t bytes = weight.padded_in * 16;
  for (std::int64_t p = 0; p < count; ++p) widen_panel(weight, weight.panel(panel + p), scratch + p * bytes);
  return {scratch, bytes};
}

// Inputs are gone through in stretches of at most 18 tiles: those of two panels, 36 KB, then stay in the L1
// cache while block after block of rows comes by, whose loads leave them there: 2,900 GFLOP/s a core in bf16,
// where loads that keep both make 2,200.
constexpr std::int64_t stretch_tiles = 18;
// Row blocks whose sums wait for the next stretch; 32 KB.
constexpr std::int64_t sweep = 8;

// Fetches the next two panels into the L2 cache, a part at each step with these: a line of each of their
// stretches of 4 KB in turn, since one stream draws 11 GB/s a core and eight 18.
class NextPanels {
 public:
  NextPanels(const std::byte* first, std::int64_t bytes, std::int64_t steps)
      : first_(first), bytes_(bytes), a_step_((bytes / row_bytes + steps - 1) / steps) {}

  void step() {
    for (std::int64_t i = 0; i < a_step_ && line_ < page_bytes; ++i) {
      _mm_prefetch(reinterpret_cast<const char*>(first_ + page_ + line_), _MM_HINT_T1);
      if ((page_ += page_bytes) + line_ >= bytes_) page_ = 0, line_ += row_bytes;
    }
  }

 private:
  static constexpr std::int64_t page_bytes = 4096;
  const std::byte* first_;
  std::int64_t bytes_, a_step_, page_ = 0, line_ = 0;
};

// Two panels' products with rows, and what takes the results to where they belong.
template <class Writer>
class Product {
 public:
  Product(const PackedMatrix& weight, const Activations& x, Range rows, const Destination& to,
          std::byte* scratch)
      : weight_(weight),
        to_(to),
        layout_(layout_of(x, integers)),
        row_scales_(integers ? x.scales : nullptr),
        steps_(weight.padded_in / (integers ? 64 : 32)),
        weights_once_(rows.last - rows.first <= 2 * tile_rows),
        stores_tiles_(!integers && !weight.gated && to.type == Compute::f32 && to.addend == nullptr &&
                      !to.past_caches && to.squares == nullptr && weight.bias.empty()),
        scratch_(scratch) {}

  // Up to 16 rows with four panels.
  void few_rows(Range rows, std::int64_t panel) {
    const TilePanels own = tile_panels(weight_, panel, 4, scratch_);
    tiles_1x4<integers>(layout_, layout_.at(rows.first), own.weights, own.bytes, steps_, sums_[0]);
    simd::HWY_NAMESPACE::write_all<Writer>(
        weight_, to_, {rows.first, rows.last - rows.first, panel, 4, sums_[0], row_scales_});
  }

  void two_panels(Range rows, std::int64_t panel, std::int64_t last_panel) {
    const TilePanels own = tile_panels(weight_, panel, 2, scratch_);
    constexpr std::int64_t together = sweep * 2 * tile_rows;
    NextPanels next(weight_.panel(panel + 2), least(2, last_panel - panel - 2) * weight_.panel_bytes(),
                    (rows.last - rows.first + 2 * tile_rows - 1) / (2 * tile_rows) * steps_);
    for (std::int64_t row = rows.first; row < rows.last; row += together)
      sweep_rows({row, least(rows.last, row + together)}, panel, own, next);
  }

  void one_panel(Range rows, std::int64_t panel) {
    const TilePanels own = tile_panels(weight_, panel, 1, scratch_);
    for (std::int64_t row = rows.first; row < rows.last; row += tile_rows) {
      tiles_1x1<integers>(layout_, layout_.at(row), own.weights, steps_, sums_[0]);
      simd::HWY_NAMESPACE::write_all<Writer>(
          weight_, to_, {row, least(rows.last - row, tile_rows), panel, 1, sums_[0], row_scales_});
    }
  }

  // Writes what is left.
  void finish() {
    for (std::int64_t r = 0; r < waiting_rows_; ++r) waiting_.write(r);
    waiting_rows_ = 0;
  }

 private:
  static constexpr bool integers = Writer::integers;

  // The results of two panels for up to `sweep` blocks of rows. A block's sums wait until the next block is
  // computed and are then written a few rows after each step: vectors and tiles work side by side.
  void sweep_rows(Range rows, std::int64_t panel, const TilePanels& own, NextPanels& next) {
    const std::int64_t stretches = (steps_ + stretch_tiles - 1) / stretch_tiles;
    for (std::int64_t s = 0; s < stretches; ++s) {
      const std::int64_t first = steps_ * s / stretches, steps = steps_ * (s + 1) / stretches - first;
      // Whole sums have been written before the next block's take their place, and the L1 cache keeps 28 KB.
      const std::int64_t apart = stretches == 1 ? 0 : 4 * tile_bytes;
      std::byte* sums = sums_[0];
      for (std::int64_t row = rows.first; row < rows.last; row += 2 * tile_rows, sums += apart) {
        const Writer waiting = waiting_;  // a copy, since what is written could not change it
        const std::int64_t waiting_rows = waiting_rows_, a_step = (waiting_rows + steps - 1) / steps;
        const auto write = [&](std::int64_t k) __attribute__((always_inline)) {
          const std::int64_t last = least(waiting_rows, (k + 1) * a_step);
          for (std::int64_t r = k * a_step; r < last; ++r) waiting.write(r);
          next.step();
        };
        const bool direct =
            stores_tiles_ && row + 2 * tile_rows <= rows.last && (panel + 2) * panel_outputs <= weight_.out;
        tiles_2x2<integers>(layout_, layout_.at(row) + first * layout_.step, own.weights + first * tile_bytes,
                            own.bytes, steps,
                            direct ? SumBlock{result(row, panel), to_.stride * 4} : SumBlock{sums, 128},
                            s > 0 || (direct && to_.accumulate), weights_once_, write);
        waiting_rows_ = 0;
        if (direct || s + 1 < stretches) continue;
        waiting_rows_ = least(rows.last - row, 2 * tile_rows);
        waiting_ = Writer(weight_, to_, {row, waiting_rows_, panel, 2, sums, row_scales_}, panel);
      }
    }
  }

  // Where the float32 results of a row and a panel are.
  std::byte* result(std::int64_t row, std::int64_t panel) const {
    return to_.y + (row * to_.stride + panel * panel_outputs - to_.first_output) * 4;
  }

  const PackedMatrix& weight_;
  const Destination& to_;
  Layout layout_;
  const float* row_scales_;
  std::int64_t steps_;
  bool weights_once_;
  bool stores_tiles_;  // results are what tiles hold: whole blocks of them add up where they belong
  std::byte* scratch_;
  Writer waiting_;
  std::int64_t waiting_rows_ = 0;
  alignas(64) std::byte sums_[sweep][4 * tile_bytes];
};

template <class Writer>
void product(const PackedMatrix& weight, const Activations& x, Range rows, Range panels,
             const Destination& to, std::byte* scratch) {
  const amx::TileScope scope;
  Product<Writer> product(weight, x, rows, to, scratch);
  std::int64_t panel = panels.first;
  if (rows.last - rows.first <= tile_rows)
    for (; panel + 4 <= panels.last; panel += 4) product.few_rows(rows, panel);
  for (; panel + 2 <= panels.last; panel += 2) product.two_panels(rows, panel, panels.last);
  product.finish();
  if (panel < panels.last) product.one_panel(rows, panel);
}

template <bool integers>
void tiles(const PackedMatrix& weight, const Activations& x, Range rows, Range panels, const Destination& to,
           std::byte* scratch) {
  simd::HWY_NAMESPACE::with_writer<integers, true>(
      weight, to, [&](auto writer) { product<decltype(writer)>(weight, x, rows, panels, to, scratch); });
}

#undef FATHOM_TILE_PRODUCT
#undef FATHOM_TILE_LOAD

// A panel in groups as tiles read it: 8-bit weights, where they lie or in scratch, and its scales and minima.
class GroupPanel {
 public:
  static std::int64_t scratch_bytes(const PackedMatrix& weight) {
    return weight.padded_in * panel_outputs + 2 * weight.groups() * row_bytes;
  }

  GroupPanel(const PackedMatrix& weight, const std::byte* panel, std::byte* scratch)
      : scales_(reinterpret_cast<float*>(scratch)),
        minima_(scales_ + weight.groups() * panel_outputs),
        per_stretch_(stretch_inputs / weight.group),
        group_bytes_(weight.group * panel_outputs) {
    std::byte* wide = scratch + 2 * weight.groups() * row_bytes;
    // Where they lie, whole lines after one another.
    const bool in_place = weight.bits() == 8 && weight.scale_bytes(per_stretch_) % row_bytes == 0;
    weights_ = in_place ? panel + weight.scale_bytes(per_stretch_) : wide;
    apart_ = in_place ? weight.stretch_bytes(stretch_inputs) : stretch_inputs * panel_outputs;
    StretchRoom room;
    for (std::int64_t s = 0; s < weight.stretches(); ++s) {
      const Stretch stretch = read_stretch(weight, panel, s, true, room);
      const auto bytes = static_cast<std::size_t>(stretch.groups * row_bytes);
      std::memcpy(scales_ + stretch.first_group * panel_outputs, stretch.scales, bytes);
      if (weight.minima) std::memcpy(minima_ + stretch.first_group * panel_outputs, stretch.minima, bytes);
      // The last stretch's scales may be fewer.
      if (in_place && s + 1 == weight.stretches()) last_ = stretch.weights;
      if (!in_place) widen(weight, stretch, wide + s * apart_);
    }
    last_group_ = (weight.stretches() - 1) * per_stretch_;
    if (last_ == nullptr) last_ = weights_ + (weight.stretches() - 1) * apart_;
  }

  const std::byte* weights(std::int64_t g) const {
    if (g >= last_group_) return last_ + (g - last_group_) * group_bytes_;
    return weights_ + g / per_stretch_ * apart_ + g % per_stretch_ * group_bytes_;
  }
  const float* scales(std::int64_t g) const { return scales_ + g * panel_outputs; }
  const float* minima(std::int64_t g) const { return minima_ + g * panel_outputs; }

 private:
  static void widen(const PackedMatrix& weight, const Stretch& stretch, std::byte* to) {
    const __m512i low = _mm512_set1_epi8(15);
    const __m512i zero = _mm512_set1_epi8(static_cast<char>(weight.bits() == 8 ? 0 : weight.zero()));
    const auto put = [&](__m512i stored, std::byte* at) {
      _mm512_storeu_si512(at, _mm512_sub_epi8(stored, zero));
    };
    const std::int64_t rows = stretch.inputs * panel_outputs / row_bytes;  // of `to`
    if (weight.bits() == 4) {
      for (std::int64_t row = 0; row < rows; row += 2) {
        const __m512i both = _mm512_loadu_si512(stretch.weights + row / 2 * row_bytes);
        put(_mm512_and_si512(both, low), to + row * row_bytes);
        put(_mm512_and_si512(_mm512_srli_epi16(both, 4), low), to + (row + 1) * row_bytes);
      }
    } else {
      for (std::int64_t row = 0; row < rows; ++row)
        put(_mm512_loadu_si512(stretch.weights + row * row_bytes), to + row * row_bytes);
    }
  }

  float *scales_, *minima_;
  const std::byte *weights_ = nullptr, *last_ = nullptr;
  std::int64_t apart_ = 0, per_stretch_, group_bytes_, last_group_ = 0;
};

// 16 rows of a panel in groups. Each group's sums fill a tile, which goes through the L1 cache into totals
// that stay in registers: 16 stores, and 16 times a conversion and two multiplications, for a product of 16
// cycles. A vector that reads what a tile has just stored waits for that, so tiles run two groups ahead.
// Neither four tiles side by side nor all tiles before all vectors was faster: 512-bit arithmetic and tiles
// hardly run at the same time. The order of operations is that of product_integers-inl.h.
void grouped_tile(const PackedMatrix& weight, const Activations& x, std::int64_t row, const GroupPanel& panel,
                  float* block, std::int64_t stride) {
  constexpr int rows = static_cast<int>(tile_rows);
  constexpr std::int64_t ahead = 2;
  alignas(64) std::byte sums[ahead + 1][tile_bytes];
  const std::int64_t groups = weight.groups(), size = weight.group, first = group_offset(groups, row, 0);
  const std::byte* values = x.data + tiled_offset(x.stride, row, 0);
  __m512 totals[rows];
#pragma GCC unroll 16
  for (int r = 0; r < rows; ++r) totals[r] = _mm512_setzero_ps();
  for (std::int64_t g = -ahead; g < groups; ++g) {
    if (const std::int64_t next = g + ahead; next < groups) {
      _tile_loadd(4, values + tiled_offset(0, 0, next * size), row_bytes);
      _tile_loadd(5, panel.weights(next), row_bytes);
      _tile_zero(0);
      _tile_dpbssd(0, 4, 5);
      _tile_stored(0, sums[next % (ahead + 1)], row_bytes);
    }
    if (g < 0) continue;
    const std::byte* own = sums[g % (ahead + 1)];
    const float* scales_of_x = x.scales + first + g * tile_rows;
    const __m512 scales = _mm512_loadu_ps(panel.scales(g));
#pragma GCC unroll 16
    for (int r = 0; r < rows; ++r) {
      const __m512 factors = _mm512_mul_ps(scales, _mm512_set1_ps(scales_of_x[r]));
      totals[r] =
          _mm512_fmadd_ps(_mm512_cvtepi32_ps(_mm512_load_si512(own + r * row_bytes)), factors, totals[r]);
    }
    if (!weight.minima) continue;
    const float* scaled_sums = x.scaled_sums + first + g * tile_rows;
    const __m512 minima = _mm512_loadu_ps(panel.minima(g));
#pragma GCC unroll 16
    for (int r = 0; r < rows; ++r)
      totals[r] = _mm512_fmadd_ps(minima, _mm512_set1_ps(scaled_sums[r]), totals[r]);
  }
#pragma GCC unroll 16
  for (int r = 0; r < rows; ++r) _mm512_store_ps(block + r * stride, totals[r]);
}

// Tiles 4 and 5 hold one group of activations and of weights.
amx::TileConfig config_for(std::int64_t group) {
  amx::TileConfig config;
  config.row_bytes[4] = static_cast<std::uint16_t>(group);
  config.rows[5] = static_cast<std::uint8_t>(group / 4);
  return config;
}

void grouped_tiles(const PackedMatrix& weight, const Activations& x, Range rows, Range panels,
                   const Destination& to, std::byte* scratch) {
  const amx::TileScope scope(config_for(weight.group));
  alignas(64) float block[tile_rows * 2 * panel_outputs];
  for (std::int64_t panel = panels.first; panel < panels.last; panel += 2) {
    const std::int64_t count = least(panels.last - panel, 2);
    const GroupPanel own[] = {
        GroupPanel(weight, weight.panel(panel), scratch),
        GroupPanel(weight, weight.panel(panel + count - 1), scratch + GroupPanel::scratch_bytes(weight))};
    for (std::int64_t row = rows.first; row < rows.last; row += tile_rows) {
      for (std::int64_t p = 0; p < count; ++p)
        grouped_tile(weight, x, row, own[p], block + p * panel_outputs, count * panel_outputs);
      write_block(weight, to, {row, least(rows.last - row, tile_rows), panel, count, block, nullptr});
    }
  }
}

}  // namespace

void tiles_amx(const PackedMatrix& weight, const Activations& x, Range rows, Range panels,
               const Destination& to, std::byte* scratch) {
  if (weight.type == Compute::bf16) return tiles<false>(weight, x, rows, panels, to, scratch);
  // Rows for which widening 4 bits and 16 rows a tile would cost more than vectors do; the results are the
  // same either way.
  const std::int64_t few = weight.type == Compute::int8 ? 1 : 8;
  if (rows.last - rows.first <= few) return integers_avx512vnni(weight, x, rows, panels, to, scratch);
  if (weight.grouped()) return grouped_tiles(weight, x, rows, panels, to, scratch);
  tiles<true>(weight, x, rows, panels, to, scratch);
}

}  // namespace fathom::products
