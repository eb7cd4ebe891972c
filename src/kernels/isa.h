// Which instruction sets the kernels use, chosen once from what the processor says of itself.
#pragma once

#include <string>

namespace fathom {

/// Levels of instruction sets; each includes those before it. avx2: AVX2, FMA and F16C. avx512: F, BW, DQ, VL
/// and VNNI. amx: its tiles, in int8 and bf16.
enum class Isa { portable, avx2, avx512, amx };

/// The best level that this machine has, or the one that FATHOM_ISA names. Throws Error, naming the variable,
/// when that is none of "portable", "avx2", "avx512" and "amx", or one that the machine lacks. The first call
/// also asks the system for leave to use AMX and tells Highway, whose kernels follow the same choice.
Isa isa();

/// The best level, whatever FATHOM_ISA says: for tests, which run all up to it.
Isa best_isa();

std::string isa_name(Isa level);

}  // namespace fathom
