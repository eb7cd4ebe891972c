// What this machine reaches when it does nothing else: the lines that speeds are held against. All threads of
// base/threads.h take part; each figure is the best of some 0.1 seconds of trying.
#pragma once

#include <string>

#include "kernels/backend.h"

namespace fathom {

/// What a matrix product multiplies: 4-bit weights, too, are 8-bit integers by then.
enum class Operand { f32, bf16, int8 };
Operand operand_of(Compute compute);

/// Bytes a second that are read from memory. Each thread reads eight streams that lie far apart: one stream a
/// core does not keep enough cache lines on their way, and gives little more than half.
double read_ceiling();

struct ProductCeiling {
  std::string unit;  ///< "AMX bf16", "VNNI int8", "f32 FMA", ...
  double rate = 0;   ///< operations a second; a multiplication and an addition are two
};

/// Of the fastest unit for such operands that isa() allows, in registers alone. Without a unit of their own
/// bf16 and int8 are widened to float32.
ProductCeiling product_ceiling(Operand operand);

}  // namespace fathom
