// Rows between memory and the vectors of row_kernels.cpp and vocabulary_loss.cpp. Included once for each
// instruction set.

#if defined(FATHOM_ROWS_INL_H) == defined(HWY_TARGET_TOGGLE)
#ifdef FATHOM_ROWS_INL_H
#undef FATHOM_ROWS_INL_H
#else
#define FATHOM_ROWS_INL_H
#endif

#include <hwy/cache_control.h>
#include <hwy/highway.h>

#include <algorithm>
#include <cstdint>

#include "formats/float16.h"
#include "train/row_kernels.h"

HWY_BEFORE_NAMESPACE();
namespace fathom::HWY_NAMESPACE {
namespace {
namespace hn = hwy::HWY_NAMESPACE;

using Floats = hn::ScalableTag<float>;
using Vector = hn::Vec<Floats>;
// A multiple of every target's lanes: rows in scratch memory are padded to whole vectors, so that
// loops need no tails.
inline constexpr std::int64_t padding = 64;

std::int64_t padded(std::int64_t width) { return (width + padding - 1) / padding * padding; }

Vector widen(Floats d, const std::uint16_t* from) {
  const hn::Rebind<std::uint16_t, Floats> halves;
  const hn::RebindToUnsigned<Floats> words;
  return hn::BitCast(d, hn::ShiftLeft<16>(hn::PromoteTo(words, hn::LoadU(halves, from))));
}

/// Rounded to nearest, ties to even.
hn::Vec<hn::Rebind<std::uint16_t, Floats>> halves_of(Vector value) {
  const hn::Rebind<std::uint16_t, Floats> halves;
  const hn::RebindToUnsigned<Floats> words;
  const hn::RebindToSigned<Floats> integers;
  const auto bits = hn::BitCast(words, value);
  const auto odd = hn::And(hn::ShiftRight<16>(bits), hn::Set(words, 1));
  const auto rounded = hn::ShiftRight<16>(hn::Add(bits, hn::Add(odd, hn::Set(words, 0x7fff))));
  return hn::DemoteTo(halves, hn::BitCast(integers, rounded));
}

void put(Vector value, float* to) { hn::StoreU(value, Floats(), to); }
void put(Vector value, std::uint16_t* to) {
  hn::StoreU(halves_of(value), hn::Rebind<std::uint16_t, Floats>(), to);
}
/// Past the caches; `to` is aligned.
void stream(Vector value, float* to) { hn::Stream(value, Floats(), to); }
void stream(Vector value, std::uint16_t* to) {
  hn::Stream(halves_of(value), hn::Rebind<std::uint16_t, Floats>(), to);
}

/// Row `row` as floats in `to`, followed by `filler` up to the padded width.
void load_row(Values from, std::int64_t row, std::int64_t width, float filler, float* HWY_RESTRICT to) {
  const Floats d;
  const auto lanes = static_cast<std::int64_t>(hn::Lanes(d));
  if (from.bf16) {
    const auto* in = static_cast<const std::uint16_t*>(from.data) + row * width;
    std::int64_t i = 0;
    for (; i + lanes <= width; i += lanes) hn::StoreU(widen(d, in + i), d, to + i);
    for (; i < width; ++i) to[i] = from_bf16(in[i]);
  } else {
    const auto* in = static_cast<const float*>(from.data) + row * width;
    std::copy(in, in + width, to);
  }
  std::fill(to + width, to + padded(width), filler);
}

template <typename T>
void store_values(const float* HWY_RESTRICT from, std::int64_t width, bool past_caches, T* to) {
  const Floats d;
  const auto lanes = static_cast<std::int64_t>(hn::Lanes(d));
  const bool streams = past_caches && reinterpret_cast<std::size_t>(to) % (lanes * sizeof(T)) == 0;
  std::int64_t i = 0;
  for (; i + lanes <= width; i += lanes) {
    const auto value = hn::LoadU(d, from + i);
    streams ? stream(value, to + i) : put(value, to + i);
  }
  if (i == width) return;
  T last[padding];
  put(hn::LoadU(d, from + i), last);
  std::copy(last, last + (width - i), to + i);
}

/// The first `width` floats of `from` (padded) as row `row`. Past the caches it goes where rows are written
/// that are not there yet, and more of them than the caches hold: a normal store reads each line first. Who
/// does that calls hwy::FlushStream at the end.
void store_row(const float* HWY_RESTRICT from, std::int64_t row, std::int64_t width, bool past_caches,
               Values to) {
  to.bf16 ? store_values(from, width, past_caches, static_cast<std::uint16_t*>(to.data) + row * width)
          : store_values(from, width, past_caches, static_cast<float*>(to.data) + row * width);
}

}  // namespace
}  // namespace fathom::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#endif  // per-target include guard
