// Products of rows with packed weights, each for one thread: who computes what is chosen by type and
// instruction set.
#pragma once

#include <cstddef>
#include <cstdint>

#include "kernels/backend.h"
#include "kernels/isa.h"
#include "kernels/packed_matrix.h"

namespace fathom {

/// The form in which a product reads its activations.
enum class RowForm {
  f32,
  rounded,  ///< float32 that bf16 holds exactly
  bf16,
  int8  ///< with a scale a row or, for weights with a scale a group, 32 values
};

/// Rows of activations, padded with zeros to the weight's padded_in; their number is padded too
/// (ProductKernel), with rows whose content does not matter. Floats and bf16 lie row by row. int8 lie as
/// tiles do, 16 rows of 64 bytes in 1,024 bytes, so that tiles are read from memory in order, and the
/// processor fetches the next ones ahead.
struct Activations {
  const std::byte* data = nullptr;
  std::int64_t stride = 0;             ///< int8: bytes between blocks of 16 rows; otherwise between rows
  const float* scales = nullptr;       ///< int8: [rows]; for weights in groups as `sums`
  const std::int32_t* sums = nullptr;  ///< int8 in groups: of each group, [rows / 16, groups, 16]
  const float* scaled_sums = nullptr;  ///< where the weight has minima: scales * sums
};

/// Where a row's group lies in Activations::sums.
inline std::int64_t group_offset(std::int64_t groups, std::int64_t row, std::int64_t group) {
  return (row / 16 * groups + group) * 16 + row % 16;
}

/// Byte `byte` of a row that lies in tiles.
inline std::int64_t tiled_offset(std::int64_t stride, std::int64_t row, std::int64_t byte) {
  return row / 16 * stride + byte / 64 * 1024 + row % 16 * 64 + byte % 64;
}

/// Rows whose results' squares are added up together (Destination::squares).
inline constexpr std::int64_t rows_of_squares = 32;

/// Where results go. Not gated: y = or += result, bias included, or result + addend. Gated: y[rows, out / 2].
struct Destination {
  std::byte* y = nullptr;
  Compute type = Compute::f32;    ///< or bf16: rounded
  std::int64_t stride = 0;        ///< elements between rows
  std::int64_t first_output = 0;  ///< which output y begins with
  bool accumulate = false;
  GateActivation activation = GateActivation::silu;
  /// nullptr, or gated: [rows, out]; not gated: what float32 results are added to, rows as far apart as y's.
  const float* addend = nullptr;
  /// Not gated: lines are written without being read first, and leave the caches: for results that are larger
  /// than these (see multiply.cpp).
  bool past_caches = false;
  /// nullptr, or (not gated, float32) what the squares of each 32 rows' results are added to, in 16 parts.
  float* squares = nullptr;
};

struct Range {
  std::int64_t first = 0, last = 0;
};

struct ProductKernel {
  RowForm form = RowForm::f32;
  std::int64_t row_granule = 1;  ///< rows are read in blocks of so many
  /// Computes the outputs of some panels (pairs of panels where gated) for some rows. `scratch` has
  /// scratch_bytes.
  void (*run)(const PackedMatrix& weight, const Activations& x, Range rows, Range panels,
              const Destination& to, std::byte* scratch) = nullptr;
};

/// How a core draws most from memory where rows are few: from so many panels side by side, fetching so many
/// bytes ahead. On Sapphire Rapids two cores read 34 GB/s from eight streams each and 20 from one; on Zen 4
/// one core reads 28 GB/s from two streams and 14 from eight, and what is fetched 2 KB ahead slows it down.
struct MemoryHabits {
  std::int64_t streams = 0, ahead = 0;
};
inline constexpr std::int64_t most_streams = 8;
MemoryHabits memory_habits();

/// What computes products with this type of weights at this level.
ProductKernel product_kernel(Compute type, Isa level);

/// Scratch of a thread for products with this weight, at any level: four panels of int4 as 8-bit integers, or
/// two in groups, with their scales and minima as float32.
std::int64_t product_scratch_bytes(const PackedMatrix& weight);

namespace products {
// Each as ProductKernel::run.
void floats(const PackedMatrix&, const Activations&, Range, Range, const Destination&, std::byte*);
void integers_portable(const PackedMatrix&, const Activations&, Range, Range, const Destination&, std::byte*);
void integers_avx2(const PackedMatrix&, const Activations&, Range, Range, const Destination&, std::byte*);
void integers_avxvnni(const PackedMatrix&, const Activations&, Range, Range, const Destination&, std::byte*);
void integers_avx512(const PackedMatrix&, const Activations&, Range, Range, const Destination&, std::byte*);
void integers_avx512vnni(const PackedMatrix&, const Activations&, Range, Range, const Destination&,
                         std::byte*);
void bf16_avx512bf16(const PackedMatrix&, const Activations&, Range, Range, const Destination&, std::byte*);
void tiles_amx(const PackedMatrix&, const Activations&, Range, Range, const Destination&, std::byte*);
void integers_neon(const PackedMatrix&, const Activations&, Range, Range, const Destination&, std::byte*);
void integers_dotprod(const PackedMatrix&, const Activations&, Range, Range, const Destination&, std::byte*);
void integers_i8mm(const PackedMatrix&, const Activations&, Range, Range, const Destination&, std::byte*);
}  // namespace products

/// For kernels whose unit is one row of one panel: `panel_row` finds its 16 results, without bias, and this
/// goes through rows and panels with it.
void row_by_row(const PackedMatrix& weight, const Activations& x, Range rows, Range panels,
                const Destination& to,
                void (*panel_row)(const PackedMatrix& weight, const Activations& x, std::int64_t row,
                                  const std::byte* panel, float* results));

/// Results of `panels` panels from `first` on for rows [row, row + rows): sums [rows, 16 panels] without
/// bias, whole numbers where there are scales of rows, which are then to be multiplied with these and the
/// outputs'.
struct Block {
  std::int64_t row = 0, rows = 0, first = 0, panels = 0;
  const void* sums = nullptr;
  const float* row_scales = nullptr;  ///< of all rows
};

/// Takes results, which are floats, to where they belong.
void write_block(const PackedMatrix& weight, const Destination& to, const Block& block);

}  // namespace fathom
