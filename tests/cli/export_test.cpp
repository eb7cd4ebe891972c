// fathom export.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <fstream>

#include "base/file.h"
#include "base/json.h"
#include "program.h"

namespace fathom {
namespace {

using test::json_of;
using test::run_program;
using testing::HasSubstr;

const std::string model = FATHOM_TEST_DATA "/models/llama-text --threads 1 ";

std::string generated(const std::filesystem::path& path) {
  const test::Run run =
      run_program("generate " + path.string() + " --dtype f32 --prompt Hello --max-tokens 8 --temperature 0");
  EXPECT_EQ(run.code, 0) << run.err;
  return run.out;
}

TEST(ExportVerb, EveryFormSaysTheSame) {
  const test::Scratch scratch;
  const std::string said = generated(FATHOM_TEST_DATA "/models/llama-text");
  for (const std::string form : {"gguf", "hf"}) {
    const auto out = scratch / form;
    const Json json =
        json_of(run_program("export " + model + "--json - --to " + form + " --out " + out.string()));
    EXPECT_EQ(json["layers"], 3);
    EXPECT_EQ(generated(out), said);
    const test::Run again = run_program("export " + model + "--to " + form + " --out " + out.string());
    EXPECT_EQ(again.code, 1);
    EXPECT_THAT(again.err, HasSubstr("give --overwrite to replace it"));
    EXPECT_EQ(run_program("export " + model + "--overwrite --to " + form + " --out " + out.string()).code, 0);
  }
}

TEST(ExportVerb, TiedLayersAreUnrolled) {
  const test::Scratch scratch;
  const std::string tied = (scratch / "tied").string();
  ASSERT_EQ(
      run_program("recur " + model + "--loops 3 --share sequence --init average --rank 4 --out " + tied).code,
      0);
  const std::string said = generated(tied);
  for (const std::string form : {"gguf", "hf"}) {
    const auto out = scratch / form;
    const test::Run run =
        run_program("export " + tied + " --type F32 --to " + form + " --out " + out.string());
    ASSERT_EQ(run.code, 0) << run.err;
    EXPECT_THAT(run.err, HasSubstr("adapters merged into the matrices"));
    EXPECT_EQ(generated(out), said);
    EXPECT_THAT(run_program("inspect " + out.string()).out, HasSubstr("plan           3 layers"));
  }
}

TEST(ExportVerb, ShardsAndTypesOfADirectory) {
  const test::Scratch scratch;
  const auto out = scratch / "hf";
  const test::Run run =
      run_program("export " + model + "--to hf --type F16 --shard 0.00002 --out " + out.string());
  ASSERT_EQ(run.code, 0) << run.err;
  EXPECT_TRUE(std::filesystem::exists(out / "model.safetensors.index.json"));
  EXPECT_EQ(read_json(out / "config.json")["dtype"], "float16");
}

TEST(ExportVerb, WhatMakesNoSenseIsRefused) {
  const test::Scratch scratch;
  const std::string out = " --out " + (scratch / "out").string();
  EXPECT_EQ(run_program("export " + model + "--to onnx" + out).code, 2);
  const test::Run blocks = run_program("export " + model + "--to hf --type Q8_0" + out);
  EXPECT_EQ(blocks.code, 2);
  EXPECT_THAT(blocks.err, HasSubstr("--to hf writes F32, F16 or BF16"));
  EXPECT_EQ(run_program("export " + (scratch / "nothing").string() + " --to gguf" + out).code, 1);
  EXPECT_TRUE(std::filesystem::is_empty(scratch.path()));
}

}  // namespace
}  // namespace fathom
