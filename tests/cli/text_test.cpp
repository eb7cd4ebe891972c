// Verbs that read and write text: tokenize, logits, generate, chat, eval.
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

using test::run_program;
using testing::ElementsAre;
using testing::HasSubstr;

const std::string models = FATHOM_TEST_DATA "/models/";
const std::string model = models + "llama-text --threads 1 ";

Json json_of(const test::Run& run) {
  EXPECT_EQ(run.code, 0) << run.err;
  return parse_json(run.out, "standard output");
}

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
  EXPECT_THAT(run.err, HasSubstr("320"));
  EXPECT_TRUE(std::filesystem::is_empty(scratch.path()));
}

TEST(Generate, GreedyIsTheSameStreamedAndAsJson) {
  const test::Run run = run_program("generate " + model + "--prompt Hello --max-tokens 8 --temperature 0");
  ASSERT_EQ(run.code, 0) << run.err;
  EXPECT_THAT(run.err, HasSubstr("stopped by max_tokens"));
  const Json json = json_of(
      run_program("generate " + model + "--prompt Hello --max-tokens 8 --temperature 0 --seed 5 --json -"));
  EXPECT_EQ(json["text"].get<std::string>() + "\n", run.out);
  EXPECT_EQ(json["tokens"].size(), 8U);
  EXPECT_EQ(json["stopped_by"], "max_tokens");
}

TEST(Generate, TheSeedDecidesTheText) {
  const std::string arguments =
      "generate " + model + "--prompt Hello --max-tokens 16 --temperature 1 --seed ";
  const std::string one = run_program(arguments + "1").out;
  EXPECT_EQ(run_program(arguments + "1").out, one);
  EXPECT_NE(run_program(arguments + "2").out, one);
}

TEST(Generate, StopsBeforeAStopStringAndAtTheContextsEnd) {
  const std::string arguments = "generate " + model + "--prompt Hello --temperature 0 --ignore-eos --json - ";
  const std::string whole = json_of(run_program(arguments + "--max-tokens 12"))["text"];
  // The first printable character of the text; a quote would need another quoting.
  const auto place = whole.find_first_of("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789");
  ASSERT_NE(place, std::string::npos) << whole;
  const Json stopped = json_of(run_program(arguments + "--max-tokens 12 --stop " + whole[place]));
  EXPECT_EQ(stopped["stopped_by"], "stop_string");
  EXPECT_EQ(stopped["text"], whole.substr(0, whole.find(whole[place])));
  const Json full = json_of(run_program(arguments + "--max-tokens -1 --context 20"));
  EXPECT_EQ(full["stopped_by"], "context_full");
}

TEST(Generate, APromptThatDoesNotFitIsAnErrorThatNamesTheModel) {
  const test::Run run = run_program("generate " + model + "--context 4 --prompt 'a b c d e f g'");
  EXPECT_EQ(run.code, 1);
  EXPECT_THAT(run.err, HasSubstr("llama-text: the prompt has"));
}

TEST(Chat, AnswersEveryLineOfAPipe) {
  const std::string arguments = "chat " + model + "--max-tokens 4 --temperature 0 ";
  const test::Scratch scratch;
  std::ofstream(scratch / "lines") << "Hello\n\n/reset\nHello\n/exit\nmore\n";
  const test::Run run = run_program(arguments + "<" + (scratch / "lines").string());
  ASSERT_EQ(run.code, 0) << run.err;
  const auto turns = [&](const std::string& text) {
    std::size_t count = 0;
    for (std::size_t at = text.find("[prompt "); at != std::string::npos; at = text.find("[prompt ", at + 1))
      ++count;
    return count;
  };
  EXPECT_EQ(turns(run.err), 2U) << run.err;
  // After /reset the same answer; the output is twice the same text.
  EXPECT_EQ(run.out.substr(0, run.out.size() / 2), run.out.substr(run.out.size() / 2));
  EXPECT_EQ(run_program(arguments + "</dev/null").out, "");
}

TEST(Chat, NeedsATemplate) {
  const test::Scratch scratch;
  for (const auto& entry : std::filesystem::directory_iterator(models + "llama-text"))
    std::filesystem::copy_file(entry, scratch / entry.path().filename());
  const std::string plain = scratch.path().string();
  std::ofstream(scratch / "tokenizer_config.json") << R"({"eos_token": "<|im_end|>"})";
  EXPECT_THAT(run_program("chat " + plain).err, HasSubstr(plain + ": the model has no chat template"));
  std::ofstream(scratch / "tokenizer_config.json") << R"({"chat_template": "{% block a %}"})";
  const test::Run run = run_program("chat " + plain);
  EXPECT_EQ(run.code, 1);
  EXPECT_THAT(run.err, HasSubstr(plain + ": chat template, line 1"));
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
