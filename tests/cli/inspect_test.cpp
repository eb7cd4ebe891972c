#include <gtest/gtest.h>

#include <fstream>

#include "base/json.h"
#include "program.h"

namespace fathom {
namespace {

const std::string models = FATHOM_TEST_DATA "/models/";

TEST(Inspect, TellsSizesOfDirectoriesAndGgufFiles) {
  for (const std::string& path : {models + "gemma2", models + "gemma2-gguf/model.gguf"}) {
    const test::Run run = test::run_program("inspect " + path);
    EXPECT_EQ(run.code, 0) << run.err;
    EXPECT_NE(run.out.find("architecture   gemma2\nplan           3 layers\n"), std::string::npos) << run.out;
    EXPECT_NE(run.out.find("window         7 tokens"), std::string::npos) << run.out;
  }
}

TEST(Inspect, JsonOnStandardOutputIsAlone) {
  const test::Run run = test::run_program("inspect --json - " + models + "llama");
  ASSERT_EQ(run.code, 0) << run.err;
  const Json json = parse_json(run.out, "standard output");
  const auto number = [](const Json& value) { return value.get<std::int64_t>(); };
  const Json& parameters = json["parameters"];
  EXPECT_EQ(number(parameters["total"]) * 4, number(json["bytes"]));  // a float32 file
  EXPECT_EQ(parameters["visits"].size(), json["plan"]["visits"].size());
  const Json& sizes = json["configuration"];
  EXPECT_EQ(number(json["kv_bytes_per_token"]["f32"]),
            2 * 4 * 3 * number(sizes["kv_heads"]) * number(sizes["head_dim"]));
}

TEST(Inspect, CountsRecursiveFormsFromAConfigurationAlone) {
  const test::Scratch scratch;
  const auto path = scratch / "config.json";
  std::ofstream(path) << R"({"model_type": "gpt_neox", "hidden_size": 2048, "intermediate_size": 8192,
                             "num_hidden_layers": 16, "num_attention_heads": 8})";
  const test::Run run = test::run_program("inspect --loops 2 --rank 64,512 " + path.string());
  EXPECT_EQ(run.code, 0) << run.err;
  for (const char* count : {"0.805 B", "0.403 B", "0.440 B", "0.705 B"})
    EXPECT_NE(run.out.find(count), std::string::npos) << count << " in\n" << run.out;
  const test::Run plain = test::run_program("inspect " + path.string());
  EXPECT_EQ(plain.code, 1);
  EXPECT_NE(plain.err.find("gpt_neox"), std::string::npos);
}

TEST(Inspect, WrongUsageAndWrongFilesHaveTheirOwnExitCodes) {
  EXPECT_EQ(test::run_program("inspect").code, 2);
  EXPECT_EQ(test::run_program("inspect --rank 4 " + models + "llama").code, 2);
  EXPECT_EQ(test::run_program("inspect --loops 2 " + models + "llama").code, 2);  // 3 layers
  const test::Run missing = test::run_program("inspect /no/such/model");
  EXPECT_EQ(missing.code, 1);
  EXPECT_NE(missing.err.find("/no/such/model"), std::string::npos);
}

}  // namespace
}  // namespace fathom
