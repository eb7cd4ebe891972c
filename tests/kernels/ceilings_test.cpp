#include "kernels/ceilings.h"

#include <gtest/gtest.h>

#include "base/threads.h"
#include "kernels/isa.h"

namespace fathom {
namespace {

TEST(Ceilings, EveryOperandHasTheFastestUnitOfTheLevel) {
  set_threads(1);
  EXPECT_EQ(product_ceiling(Operand::f32).unit, "f32 FMA");
  const ProductCeiling bf16 = product_ceiling(Operand::bf16), int8 = product_ceiling(Operand::int8);
  const char* units[][2] = {
      {"f32 FMA", "f32 FMA"}, {"f32 FMA", "AVX2 int8"}, {"f32 FMA", "VNNI int8"}, {"AMX bf16", "AMX int8"}};
  EXPECT_EQ(bf16.unit, units[static_cast<std::size_t>(isa())][0]);
  EXPECT_EQ(int8.unit, units[static_cast<std::size_t>(isa())][1]);
  EXPECT_GT(bf16.rate, 0);
  EXPECT_GT(int8.rate, 0);
}

TEST(Ceilings, MemoryIsReadByAnyNumberOfThreads) {
  for (const int threads : {1, 3}) {
    set_threads(threads);
    EXPECT_GT(read_ceiling(), 0) << threads;
  }
}

TEST(Ceilings, IntegersOfFourBitsAreMultipliedAsBytes) {
  EXPECT_EQ(operand_of(Compute::f32), Operand::f32);
  EXPECT_EQ(operand_of(Compute::bf16), Operand::bf16);
}

}  // namespace
}  // namespace fathom
