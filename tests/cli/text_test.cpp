// Verbs that read text: tokenize, logits, eval.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstring>
#include <fstream>

#include "base/file.h"
#include "base/json.h"
#include "oracle.h"
#include "program.h"

namespace fathom {
namespace {

using test::json_of;
using test::run_program;
using testing::HasSubstr;

const std::string models = FATHOM_TEST_DATA "/models/";
const std::string model = models + "llama-text --threads 1 ";

/// The values of a float32 .npy file.
std::vector<float> npy_values(const std::filesystem::path& path) {
  const std::string bytes = read_file(path);
  const std::size_t begin = 10 + static_cast<unsigned char>(bytes.at(8)) + 256 * bytes.at(9);
  std::vector<float> values((bytes.size() - begin) / sizeof(float));
  std::memcpy(values.data(), bytes.data() + begin, values.size() * sizeof(float));
  return values;
}

TEST(Tokenize, IdsAreAJsonListAndComeBackAsText) {
  for (const std::string& path : {models + "llama-text", models + "llama-text-gguf/model.gguf"}) {
    const Json ids = json_of(run_program("tokenize " + path + " --text 'Hello <|im_end|> wörld'"));
    ASSERT_TRUE(ids.is_array());
    std::string list;
    for (const Json& id : ids) list += id.dump() + ",";
    list.pop_back();
    EXPECT_EQ(run_program("tokenize " + path + " --decode " + list).out, "Hello <|im_end|> wörld\n");
  }
}

TEST(Tokenize, ReadsAFileOrStandardInput) {
  const test::Scratch scratch;
  std::ofstream(scratch / "a.txt") << "two\nlines";
  const std::string expected = run_program("tokenize " + models + "llama-text --text 'two\nlines'").out;
  const std::string file = (scratch / "a.txt").string();
  EXPECT_EQ(run_program("tokenize " + models + "llama-text --file " + file).out, expected);
  EXPECT_EQ(run_program("tokenize " + models + "llama-text <" + file).out, expected);
}

TEST(Logits, EqualTransformersWithoutATokenizerAtOnceAndTokenByToken) {
  const test::Scratch scratch;
  const auto out = scratch / "logits.npy";
  for (const std::string name : {"gemma3", "qwen2-window", "llama-rope-llama3-gguf"}) {
    const Oracle oracle = load_oracle(name);
    std::string ids;
    for (const std::int32_t id : oracle.ids) ids += (ids.empty() ? "" : ",") + std::to_string(id);
    for (const char* step : {"", " --step"}) {
      const test::Run run = run_program("logits " + oracle.model.string() + " --threads 1 --ids " + ids +
                                        step + " --out " + out.string());
      ASSERT_EQ(run.code, 0) << run.err;
      EXPECT_EQ(run.out, "");
      EXPECT_LT(largest_difference(npy_values(out), oracle.logits), 1e-3F) << name << step;
    }
  }
}

TEST(Logits, AnIdOutsideTheVocabularyIsNamed) {
  const test::Scratch scratch;
  const test::Run run = run_program("logits " + model + "--ids 1,320 --out " + (scratch / "a.npy").string());
  EXPECT_EQ(run.code, 1);
  EXPECT_THAT(run.err, HasSubstr("llama-text: token id 320"));
  EXPECT_TRUE(std::filesystem::is_empty(scratch.path()));
}

TEST(Eval, PerplexityAsATableAndAsJson) {
  const test::Scratch scratch;
  std::ofstream(scratch / "a.txt") << std::string(40, 'a') << " text that is long enough for two windows";
  const std::string arguments = "eval " + model + "--text " + (scratch / "a.txt").string();
  const Json json = json_of(run_program(arguments + " --context 16 --json -"));
  for (const char* key : {"nll", "tokens", "perplexity"}) EXPECT_TRUE(json.contains(key)) << key;
  EXPECT_NEAR(json["perplexity"].get<double>(), std::exp(json["nll"].get<double>()), 1e-6);
  EXPECT_THAT(run_program(arguments + " --context 16").out, HasSubstr("perplexity  "));
  const test::Run few = run_program(arguments + " --context 200");
  EXPECT_EQ(few.code, 1);
  EXPECT_THAT(few.err, HasSubstr("a.txt: the text has"));
}

TEST(Eval, EarlyExitsAreReadTokenByToken) {
  const test::Scratch scratch;
  std::ofstream(scratch / "a.txt") << std::string(40, 'a') << " text that is long enough for two windows";
  const std::string arguments = "eval " + model + "--context 16 --text " + (scratch / "a.txt").string() + " ";
  const Json json = json_of(run_program(arguments + "--exit depth:2 --exited-kv copy --json -"));
  EXPECT_EQ(json["exits"]["depth"], 3);
  EXPECT_LT(json["exits"]["visits"].get<double>(), 2.2);
  EXPECT_THAT(run_program(arguments + "--exit depth:2").out,
              testing::ContainsRegex("with exits  [0-9.]+ ± [0-9.]+   2[.]1 of 3 visits a token"));
  EXPECT_EQ(run_program(arguments + "--exit margin:0.5").code, 2);     // no exits are marked
  EXPECT_EQ(run_program(arguments + "--calibrate-exit 0.9").code, 2);  // of which rule
  EXPECT_EQ(run_program(arguments + "--draft 1").code, 2);             // changes no prediction
}

TEST(Eval, DivergenceFromTheModelInAnotherType) {
  const test::Scratch scratch;
  std::ofstream(scratch / "a.txt") << std::string(40, 'a') << " text that is long enough for two windows";
  const std::string arguments =
      "eval " + model + "--context 16 --text " + (scratch / "a.txt").string() + " --dtype int4 --against ";
  const Json json = json_of(run_program(arguments + "bf16 --json -"));
  EXPECT_EQ(json["divergence"]["against"], "bf16");
  EXPECT_EQ(json["divergence"]["tokens"], json["tokens"]);
  EXPECT_GT(json["divergence"]["kl"].get<double>(), 0);
  EXPECT_THAT(run_program(arguments + "bf16").out,
              testing::ContainsRegex("divergence  0[.][0-9]+ nats a token from bf16, .* in [0-9.]+ %"));
  EXPECT_THAT(
      run_program(arguments + "int4").out,
      HasSubstr("divergence  0.000000 nats a token from int4, the same most probable token in 100.00 %"));

  // The same weights, and only keys and values in another type.
  const std::string cached = "eval " + model + "--context 16 --text " + (scratch / "a.txt").string() +
                             " --dtype bf16 --against bf16 --json - --kv ";
  EXPECT_EQ(json_of(run_program(cached + "bf16"))["divergence"]["kl"], 0);
  EXPECT_GT(json_of(run_program(cached + "int8"))["divergence"]["kl"].get<double>(), 0);

  const test::Run unknown = run_program(arguments + "f17");
  EXPECT_EQ(unknown.code, 2);
  EXPECT_THAT(unknown.err, HasSubstr("--against: f17"));
  const test::Run nothing = run_program("eval " + model + "--speed --against bf16");
  EXPECT_EQ(nothing.code, 2);
  EXPECT_THAT(nothing.err, HasSubstr("--against needs --text"));
}

TEST(Eval, TasksFromAFolder) {
  const test::Scratch scratch;
  std::ofstream(scratch / "piqa.jsonl")
      << R"({"query": "Question: how?\nAnswer:", "choices": ["so", "not so"], "gold": 0})"
      << "\n"
      << R"({"query": "Question: when?\nAnswer:", "choices": ["now", "never"], "gold": 1})"
      << "\n";
  const std::string arguments = "eval " + model + "--tasks piqa --data " + scratch.path().string();
  const Json task = json_of(run_program(arguments + " --json -"))["tasks"]["piqa"];
  EXPECT_EQ(task["examples"], 2);
  for (const char* key : {"acc", "acc_norm"}) EXPECT_TRUE(task.contains(key)) << key;
  EXPECT_THAT(run_program(arguments).out, HasSubstr("piqa"));
  std::ofstream(scratch / "piqa.jsonl") << R"({"query": "a", "choices": ["so", "not so"], "gold": 2})";
  const test::Run wrong = run_program(arguments);
  EXPECT_EQ(wrong.code, 1);
  EXPECT_THAT(wrong.err, HasSubstr("piqa.jsonl, line 1: field 'gold' is 2"));
}

}  // namespace
}  // namespace fathom
