// What --dtype and --kv ask for.
#include <gtest/gtest.h>

#include "base/error.h"
#include "cli/verbs.h"
#include "oracle.h"
#include "runtime/model.h"

namespace fathom {
namespace {

TEST(ChooseCompute, TakesTheNamesOfTypesAndAuto) {
  const Checkpoint model = load_checkpoint(load_oracle("llama").model);
  EXPECT_EQ(choose_compute("f32", load_checkpoint(load_oracle("llama-bf16").model)), Compute::f32);
  EXPECT_EQ(choose_compute("bf16", model), Compute::bf16);
  EXPECT_EQ(choose_compute("int8", model), Compute::int8);
  EXPECT_EQ(choose_compute("int4", model), Compute::int4);
  EXPECT_EQ(choose_compute("int4g32", model), Compute::int4_groups);
  EXPECT_EQ(choose_compute("native", model), Compute::native);
  EXPECT_THROW(choose_compute("int3", model), UsageError);
  for (const char* name : {"llama", "llama-bf16", "qwen3-gguf"}) {
    const Checkpoint other = load_checkpoint(load_oracle(name).model);
    EXPECT_EQ(choose_compute("auto", other), own_compute(other)) << name;
  }
}

TEST(ChooseKv, TakesTheNamesOfTypesAndAuto) {
  EXPECT_EQ(choose_kv("auto"), std::nullopt);
  EXPECT_EQ(choose_kv("bf16"), Compute::bf16);
  EXPECT_EQ(choose_kv("int8"), Compute::int8);
  EXPECT_THROW(choose_kv("f32"), UsageError);
}

}  // namespace
}  // namespace fathom
