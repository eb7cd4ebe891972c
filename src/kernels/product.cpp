#include "kernels/product.h"

#if defined(__x86_64__)
#include <cpuid.h>
#endif

namespace fathom {

#if defined(__x86_64__)
namespace {

// AMD's family of processors: 0x17 Zen and Zen 2, 0x19 Zen 3 and Zen 4, 0x1A Zen 5; 0 of others.
unsigned amd_family() {
  unsigned eax = 0, ebx = 0, ecx = 0, edx = 0;
  if (__get_cpuid(0, &eax, &ebx, &ecx, &edx) == 0 || ebx != signature_AMD_ebx) return 0;
  __get_cpuid(1, &eax, &ebx, &ecx, &edx);
  const unsigned base = eax >> 8U & 15U, extended = eax >> 20U & 255U;
  return base == 15 ? base + extended : base;
}

}  // namespace
#endif

MemoryHabits memory_habits() {
  // Generation in int8 by AVX2: on Zen 5 with two streams and 512 bytes ahead 30 GB/s of two cores' 84, so
  // 64; on Zen 4 the other way round.
  static const MemoryHabits habits = [] {
#if defined(__x86_64__)
    const unsigned amd = amd_family();
    if (amd >= 0x1A) return MemoryHabits{.streams = 1, .ahead = 8192};
    if (amd != 0) return MemoryHabits{.streams = 2, .ahead = 512};
#endif
    return MemoryHabits{.streams = most_streams, .ahead = 2048};
  }();
  return habits;
}

ProductKernel product_kernel(Compute type, Isa level) {
  const bool integers = type != Compute::f32 && type != Compute::bf16;
#if defined(__x86_64__)
  if (type == Compute::bf16 && level == Isa::amx) return {RowForm::bf16, 32, products::tiles_amx};
  if (type == Compute::bf16 && level == Isa::avx512bf16) return {RowForm::bf16, 1, products::bf16_avx512bf16};
  if (integers) {
    if (level == Isa::amx) return {RowForm::int8, 32, products::tiles_amx};
    if (level >= Isa::avx512vnni) return {RowForm::int8, 1, products::integers_avx512vnni};
    if (level == Isa::avx512) return {RowForm::int8, 1, products::integers_avx512};
    if (level == Isa::avxvnni) return {RowForm::int8, 1, products::integers_avxvnni};
    if (level == Isa::avx2) return {RowForm::int8, 1, products::integers_avx2};
  }
#elif defined(__aarch64__)
  if (integers) {
    if (level == Isa::i8mm) return {RowForm::int8, 1, products::integers_i8mm};
    if (level == Isa::dotprod) return {RowForm::int8, 1, products::integers_dotprod};
    if (level == Isa::neon) return {RowForm::int8, 1, products::integers_neon};
  }
#else
  static_cast<void>(level);
#endif
  if (integers) return {RowForm::int8, 1, products::integers_portable};
  return {type == Compute::f32 ? RowForm::f32 : RowForm::rounded, 1, products::floats};
}

std::int64_t product_scratch_bytes(const PackedMatrix& weight) {
  if (weight.grouped()) return 2 * (weight.padded_in + 2 * weight.groups() * 4) * panel_outputs;
  return weight.four_bits() ? 4 * weight.padded_in * panel_outputs : 0;
}

void row_by_row(const PackedMatrix& weight, const Activations& x, Range rows, Range panels,
                const Destination& to,
                void (*panel_row)(const PackedMatrix& weight, const Activations& x, std::int64_t row,
                                  const std::byte* panel, float* results)) {
  // A gate and its up projection together.
  for (std::int64_t first = panels.first; first < panels.last; first += 2) {
    const std::int64_t count = panels.last - first < 2 ? 1 : 2;
    for (std::int64_t row = rows.first; row < rows.last; ++row) {
      alignas(64) float block[2 * panel_outputs];
      for (std::int64_t p = 0; p < count; ++p)
        panel_row(weight, x, row, weight.panel(first + p), block + p * panel_outputs);
      write_block(weight, to, {row, 1, first, count, block, nullptr});
    }
  }
}

}  // namespace fathom
