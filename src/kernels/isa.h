// Which instruction sets the kernels use, chosen once from what the processor says of itself.
#pragma once

#include <span>
#include <string>

namespace fathom {

/// Levels of instruction sets of the architecture that this is compiled for, the better ones later. Each
/// includes those before it, but that avxvnni may be missing below avx512 and the levels after it.
enum class Isa {
  portable,  ///< what every processor of the architecture has; products of integers are plain loops
#if defined(__x86_64__)
  avx2,        ///< AVX2, FMA and F16C
  avxvnni,     ///< products of bytes (VNNI) in vectors of 256 bits
  avx512,      ///< AVX-512 F, BW, DQ and VL
  avx512vnni,  ///< products of bytes in 512 bits
  avx512bf16,  ///< products of bf16 in 512 bits
  amx          ///< tiles, in int8 and bf16
#elif defined(__aarch64__)
  neon,     ///< what portable has (NEON), and products of bytes by it
  dotprod,  ///< products of four bytes (SDOT)
  i8mm      ///< products of 2 x 8 with 8 x 2 bytes (SMMLA)
#endif
};

/// The best level that this machine has, or the one that FATHOM_ISA names. Throws Error, naming the variable,
/// when that is no level, or one that the machine lacks. The first call also asks the system for leave to use
/// AMX and tells Highway, whose kernels follow the same choice.
Isa isa();

/// Whether what `level` adds may be used: the machine has it, and isa() is that level or a later one.
bool allows(Isa level);

/// The levels that this machine has, from portable on, whatever FATHOM_ISA says: for tests, which run them
/// all.
std::span<const Isa> machine_levels();

std::string isa_name(Isa level);

/// Whether isa() rounds to bf16 and multiplies it by instructions of their own.
bool native_bf16();

/// Whether isa() has tiles.
bool native_tiles();

}  // namespace fathom
