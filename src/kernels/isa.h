// Which instruction sets the kernels use, chosen once from what the processor says of itself.
#pragma once

#include <span>
#include <string>

namespace fathom {

/// Levels of instruction sets, the better ones later. Each includes those before it, but that avxvnni may be
/// missing below avx512 and the levels after it.
enum class Isa {
  portable,    ///< what every processor of the architecture has
  avx2,        ///< AVX2, FMA and F16C
  avxvnni,     ///< products of bytes (VNNI) in vectors of 256 bits
  avx512,      ///< AVX-512 F, BW, DQ and VL
  avx512vnni,  ///< products of bytes in 512 bits
  avx512bf16,  ///< products of bf16 in 512 bits
  amx          ///< tiles, in int8 and bf16
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

}  // namespace fathom
