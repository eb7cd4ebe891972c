#include "kernels/ceilings.h"

#include <gtest/gtest.h>

#include <map>
#include <string>
#include <utility>

#include "base/threads.h"
#include "kernels/isa.h"

namespace fathom {
namespace {

TEST(Ceilings, EveryOperandHasTheFastestUnitOfTheLevel) {
  set_threads(1);
  EXPECT_EQ(product_ceiling(Operand::f32).unit, "f32 FMA");
  const ProductCeiling bf16 = product_ceiling(Operand::bf16), int8 = product_ceiling(Operand::int8);
  const std::map<Isa, std::pair<std::string, std::string>> units = {
#if defined(__x86_64__)
    {Isa::avx2, {"f32 FMA", "AVX2 int8"}},
    {Isa::avxvnni, {"f32 FMA", "AVX-VNNI int8"}},
    {Isa::avx512, {"f32 FMA", "AVX-512 int8"}},
    {Isa::avx512vnni, {"f32 FMA", "VNNI int8"}},
    {Isa::avx512bf16, {"AVX-512 bf16", "VNNI int8"}},
    {Isa::amx, {"AMX bf16", "AMX int8"}},
#elif defined(__aarch64__)
    {Isa::neon, {"f32 FMA", "NEON int8"}},
    {Isa::dotprod, {"f32 FMA", "SDOT int8"}},
    {Isa::i8mm, {"f32 FMA", "SMMLA int8"}},
#endif
    {Isa::portable, {"f32 FMA", "f32 FMA"}}
  };
  EXPECT_EQ(bf16.unit, units.at(isa()).first);
  EXPECT_EQ(int8.unit, units.at(isa()).second);
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
