#include "kernels/multiply.h"

#include <hwy/cache_control.h>

#include <algorithm>
#include <atomic>

#include "base/threads.h"
#include "kernels/aligned.h"
#include "kernels/bf16.h"
#include "kernels/isa.h"
#include "kernels/repack.h"
#include "kernels/simd.h"

namespace fathom {
namespace {

// The kernels go through all rows for two panels at a time. A block of rows that stays in the L2 cache (1 MB
// of its 2) is read from memory once; the weights come by once a block, which 256 rows make cheap: 256
// operations for each byte, and a core has 10 GB/s and 2,000 GFLOP/s. Blocks begin where sums of squares do,
// so that no two threads add to one.
constexpr std::int64_t block_bytes = 1 << 20, granule = rows_of_squares;

// As many rows as stay in the cache, in blocks of one size, as many for each thread.
std::int64_t rows_of_block(const PackedMatrix& weight, std::int64_t rows) {
  const std::int64_t fitting = std::max(granule, block_bytes / (weight.padded_in * 2));
  const std::int64_t share = (rows + thread_count() - 1) / thread_count();
  const std::int64_t blocks = (share + fitting - 1) / fitting;
  return ((share + blocks - 1) / blocks + granule - 1) / granule * granule;
}

// Rows for columns.
HalfRows turned_rows(std::int64_t rows, std::int64_t in, HalfRows columns) {
  thread_local AlignedBuffer buffer;
  const std::int64_t stride = odd_lines(in);
  buffer.reserve(static_cast<std::size_t>((rows + granule) * stride * 2));
  transpose({Compute::bf16, columns.data, in, rows, columns.stride}, buffer.as<std::uint16_t>(), stride);
  return {buffer.as<std::uint16_t>(), stride};
}

// The block's rows as the kernel wants them: floats, or an odd number of lines apart and filled up with zeros
// to whole tiles. Products with rows of 576 or 1,536 where they lie, 18 or 48 lines apart, take 1.2 to
// 1.4 times as long as with copies; so do rows that lie pages apart, as parts of a vocabulary's logits do: a
// copy reads each in order, where tiles ask for 16 lines in 16 pages.
Activations formed(const PackedMatrix& weight, RowForm form, std::int64_t rows, HalfRows x) {
  thread_local AlignedBuffer buffer;
  const bool halves = form == RowForm::bf16;
  const std::int64_t stride = halves ? odd_lines(weight.padded_in) * 2 : weight.padded_in * 4;
  const std::int64_t padded_rows = (rows + granule - 1) / granule * granule;
  buffer.reserve(static_cast<std::size_t>(padded_rows * stride));
  for (std::int64_t r = 0; r < rows; ++r) {
    const std::uint16_t* from = x.data + r * x.stride;
    std::byte* row = buffer.as<std::byte>() + r * stride;
    if (halves)
      std::copy_n(from, weight.in, reinterpret_cast<std::uint16_t*>(row));
    else
      simd::widen_bf16(static_cast<std::size_t>(weight.in), from, reinterpret_cast<float*>(row));
    std::fill(row + weight.in * (halves ? 2 : 4), row + stride, std::byte{0});
  }
  return {buffer.as<std::byte>(), stride, nullptr, nullptr};
}

Activations activations_of(const ProductKernel& kernel, const PackedMatrix& weight, std::int64_t rows,
                           HalfRows x) {
  // What is turned has room for whole blocks of rows behind it.
  const bool whole = x.turned || rows % kernel.row_granule == 0;
  constexpr std::int64_t two_pages = 2 * 4096 / sizeof(std::uint16_t);
  const bool near = x.turned || x.stride <= two_pages;  // what is turned lies closely
  if (x.turned) x = turned_rows(rows, weight.in, x);
  // A copy is worth it where many panels read it.
  const bool apart = (x.stride == odd_lines(x.stride) && near) || weight.panels() < 16;
  const bool direct = kernel.form == RowForm::bf16 && weight.padded_in == weight.in && whole && apart;
  if (!direct) return formed(weight, kernel.form, rows, x);
  return {reinterpret_cast<const std::byte*>(x.data), x.stride * 2, nullptr, nullptr};
}

// Brings rows into the L2 cache one after the other: in order the processor runs ahead, where a block of
// results, two lines of each row, would wait for each line.
void fetch(std::int64_t rows, std::int64_t width, std::int64_t stride, const float* from) {
  constexpr std::int64_t line = 64 / sizeof(float);
  for (std::int64_t r = 0; r < rows; ++r)
    for (std::int64_t i = 0; i < width; i += line) hwy::Prefetch(from + r * stride + i);
}

}  // namespace

void multiply_here(const PackedMatrix& weight, std::int64_t rows, HalfRows x, const Destination& to) {
  const ProductKernel kernel = product_kernel(Compute::bf16, isa());
  kernel.run(weight, activations_of(kernel, weight, rows, x), {0, rows}, {0, weight.panels()}, to, nullptr);
}

void multiply(const PackedMatrix& weight, Range panels, std::int64_t rows, HalfRows x,
              const Destination& to) {
  const std::int64_t step = rows_of_block(weight, rows), blocks = (rows + step - 1) / step;
  const ProductKernel kernel = product_kernel(Compute::bf16, isa());
  const std::int64_t element = to.type == Compute::f32 ? 4 : 2;
  std::atomic<std::int64_t> next = 0;
  on_each_thread([&](int, int) {
    for (std::int64_t block = next++; block < blocks; block = next++) {
      const std::int64_t first = block * step;
      Destination here = to;
      here.y += first * to.stride * element;
      if (to.squares != nullptr) here.squares += first / rows_of_squares * panel_outputs;
      const std::int64_t count = std::min(step, rows - first);
      const Activations activations = activations_of(kernel, weight, count, x.from(first));
      if (to.addend != nullptr) {
        here.addend += first * to.stride;
        fetch(count, (panels.last - panels.first) * panel_outputs, to.stride, here.addend);
      }
      kernel.run(weight, activations, {0, count}, panels, here, nullptr);
    }
    if (to.past_caches) hwy::FlushStream();
  });
}

}  // namespace fathom
