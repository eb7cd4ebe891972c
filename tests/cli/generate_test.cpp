// Verbs that write text: generate, chat.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstdlib>
#include <fstream>

#include "base/file.h"
#include "base/json.h"
#include "program.h"
#include "scratch.h"

namespace fathom {
namespace {

using test::json_of;
using test::run_program;
using testing::HasSubstr;

const std::string model = FATHOM_TEST_DATA "/models/llama-text";

TEST(GenerateVerb, StreamsTheTextThatTransformersGives) {
  const Json oracle = read_json(FATHOM_TEST_DATA "/generation.json");
  const test::Scratch scratch;
  for (const Json& entry : oracle["cases"]) {
    write_file(scratch / "prompt", entry["prompt"].get<std::string>());
    const test::Run run = run_program("generate --threads 1 --dtype f32 --max-tokens 40 --repeat-penalty " +
                                      entry["repetition_penalty"].dump() + " --file " +
                                      (scratch / "prompt").string() + " " + model);
    ASSERT_EQ(run.code, 0) << run.err;
    EXPECT_EQ(run.out, entry["text"].get<std::string>() + "\n");
    EXPECT_NE(run.err.find("generated 40 tokens"), std::string::npos) << run.err;
    EXPECT_NE(run.err.find("stopped by max_tokens"), std::string::npos) << run.err;
  }
}

/// A copy of the model, with another value in one of its JSON files.
void copy_model(const test::Scratch& folder, const char* file, const char* field, const Json& value) {
  for (const auto& entry : std::filesystem::directory_iterator(model))
    std::filesystem::copy_file(entry, folder / entry.path().filename());
  Json json = read_json(folder / file);
  json[field] = value;
  write_file(folder / file, json.dump());
}

TEST(GenerateVerb, DoesNotBeginBehindAnEndTokenThatTheTokenizerAppends) {
  const test::Scratch appends;
  copy_model(appends, "tokenizer.json", "post_processor", Json::parse(R"({
    "type": "TemplateProcessing",
    "single": [{"Sequence": {"id": "A", "type_id": 0}}, {"SpecialToken": {"id": "<|im_end|>", "type_id": 0}}],
    "pair": [],
    "special_tokens": {"<|im_end|>": {"id": "<|im_end|>", "ids": [2], "tokens": ["<|im_end|>"]}}})"));
  const std::string command = "generate -q --threads 1 --dtype f32 --max-tokens 20 --prompt the ";
  const test::Run run = run_program(command + appends.path().string());
  ASSERT_EQ(run.code, 0) << run.err;
  EXPECT_EQ(run.out, run_program(command + model).out);
  EXPECT_EQ(run_program("tokenize " + appends.path().string() + " --text the").out, "[260, 2]\n");
}

TEST(GenerateVerb, DepthIsShownAndDraftsChangeNothing) {
  const std::string command = "generate --threads 1 --dtype f32 --max-tokens 24 --prompt the " + model + " ";
  const test::Run full = run_program(command);
  const test::Run drafted = run_program(command + "--draft 1:4");
  EXPECT_EQ(drafted.out, full.out);
  EXPECT_THAT(drafted.err, HasSubstr("tokens a pass"));
  const Json left = json_of(run_program(command + "--exit depth:2 --exited-kv copy --json -"));
  ASSERT_EQ(left["visits"].size(), 24U);
  EXPECT_EQ(left["visits"][0], 3);  // chosen after the prompt, which has full depth
  EXPECT_EQ(left["visits"][1], 2);
  EXPECT_THAT(run_program(command + "--exit depth:2 --show-depth").out, HasSubstr("\x1b[38;5;"));
  const test::Run unmarked = run_program(command + "--exit margin:0.5");
  EXPECT_EQ(unmarked.code, 2);
  EXPECT_THAT(unmarked.err, HasSubstr("--exit depth:VISIT"));
  for (const char* wrong : {"--draft loop", "--draft 3", "--draft 0", "--draft 1:0", "--draft x",
                            "--exit depth:3", "--exited-kv some", "--exit depth:1 --draft 1"})
    EXPECT_EQ(run_program(command + wrong).code, 2) << wrong;
}

TEST(GenerateVerb, TheMemoryOfKeysAndValuesLimitsTheContext) {
  const std::string command = "generate --threads 1 --dtype f32 --max-tokens 100 --prompt the " + model + " ";
  const Json free = json_of(run_program(command + "--json -"));
  EXPECT_EQ(json_of(run_program(command + "--kv-memory 1G --json -"))["tokens"], free["tokens"]);
  const test::Run none = run_program(command + "--kv-memory 100");
  EXPECT_EQ(none.code, 1);
  EXPECT_THAT(none.err, HasSubstr("100 B"));
  for (const char* wrong : {"--kv-memory x", "--kv-memory -1", "--exit depth:2 --exited-kv single",
                            "--draft 1 --exited-kv single"})
    EXPECT_NE(run_program(command + wrong).code, 0) << wrong;
}

TEST(GenerateVerb, SaysWhichInstructionSetsItUsesAndTakesALowerLevel) {
  const std::string command = "generate --prompt x --max-tokens 1 " + model;
  const auto with_level = [&](const char* level) {
    ::setenv("FATHOM_ISA", level, 1);
    test::Run run = run_program(command);
    ::unsetenv("FATHOM_ISA");
    return run;
  };
  const test::Run portable = with_level("portable"), wrong = with_level("mmx");
  EXPECT_EQ(portable.code, 0);
  EXPECT_THAT(portable.err, HasSubstr("threads, portable"));
  EXPECT_EQ(wrong.code, 1);
  EXPECT_THAT(wrong.err, HasSubstr("FATHOM_ISA is 'mmx', expected one of portable, "));
}

TEST(GenerateVerb, ASmallModelsWeightsAreNotKept) {
  const test::Scratch scratch;
  ::setenv("FATHOM_CACHE", (scratch / "cache").c_str(), 1);
  const test::Run run = run_program("generate --prompt x --max-tokens 1 " + model);
  ::unsetenv("FATHOM_CACHE");
  EXPECT_EQ(run.code, 0) << run.err;
  EXPECT_FALSE(std::filesystem::exists(scratch / "cache"));
}

TEST(GenerateVerb, FiguresAsJsonStandAlone) {
  const test::Run run =
      run_program("generate --threads 1 --stop zzz --stop mind --prompt the --dtype f32 --json - " + model);
  const Json figures = json_of(run);
  EXPECT_EQ(figures["stopped_by"], "stop_string");
  EXPECT_EQ(figures["prompt_tokens"], 1);
  EXPECT_GT(figures["tokens"].size(), 3U);
  EXPECT_EQ(figures["text"].get<std::string>().find("mind"), std::string::npos);
}

TEST(GenerateVerb, TheSeedDecidesWhatIsSampled) {
  const std::string command = "generate --threads 1 -q --temperature 1 --max-tokens 20 --chat --prompt hi ";
  const auto first = run_program(command + "--seed 1 " + model);
  ASSERT_EQ(first.code, 0) << first.err;
  EXPECT_EQ(first.out, run_program(command + "--seed 1 " + model).out);
  EXPECT_NE(first.out, run_program(command + "--seed 2 " + model).out);
  EXPECT_EQ(first.err, "");
}

TEST(GenerateVerb, ErrorsSayWhatIsMissing) {
  EXPECT_EQ(run_program("generate " + model).code, 2);
  EXPECT_EQ(run_program("generate --prompt a --temperature -1 " + model).code, 2);
  EXPECT_EQ(run_program("generate --prompt a --top-p 0 " + model).code, 2);
  EXPECT_EQ(run_program("generate --prompt '' " + model).code, 2);
  EXPECT_EQ(run_program("generate --prompt a --stop '' " + model).code, 2);
}

TEST(GenerateVerb, GreedyIsTheSameStreamedAndAsJson) {
  const test::Run run = run_program("generate " + model + " --prompt Hello --max-tokens 8 --temperature 0");
  ASSERT_EQ(run.code, 0) << run.err;
  EXPECT_THAT(run.err, HasSubstr("stopped by max_tokens"));
  const Json json = json_of(
      run_program("generate " + model + " --prompt Hello --max-tokens 8 --temperature 0 --seed 5 --json -"));
  EXPECT_EQ(json["text"].get<std::string>() + "\n", run.out);
  EXPECT_EQ(json["tokens"].size(), 8U);
  EXPECT_EQ(json["stopped_by"], "max_tokens");
}

TEST(GenerateVerb, StopsBeforeAStopStringAndAtTheContextsEnd) {
  const std::string arguments =
      "generate " + model + " --prompt Hello --temperature 0 --ignore-eos --json - ";
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

TEST(GenerateVerb, APromptThatDoesNotFitIsAnErrorThatNamesTheModel) {
  const test::Run run = run_program("generate " + model + " --context 4 --prompt 'a b c d e f g'");
  EXPECT_EQ(run.code, 1);
  EXPECT_THAT(run.err, HasSubstr("llama-text: the prompt has"));
}

TEST(ChatVerb, AnswersEveryLineAndKeepsTheConversation) {
  const test::Scratch scratch;
  const auto turns = [&](const std::string& lines) {
    write_file(scratch / "lines", lines);
    return run_program("chat --threads 1 -q --temperature 0 --dtype f32 --max-tokens 8 " + model + " <" +
                       (scratch / "lines").string());
  };
  const auto once = turns("hello\n"), twice = turns("hello\nhello\n"),
             reset = turns("hello\n/reset\nhello\n");
  ASSERT_EQ(once.code, 0) << once.err;
  EXPECT_FALSE(once.out.empty());
  EXPECT_EQ(reset.out, once.out + once.out);
  EXPECT_TRUE(twice.out.starts_with(once.out));
  EXPECT_NE(twice.out, reset.out);  // the second answer sees the first turn
  EXPECT_EQ(turns("hello\n/exit\nhello\n").out, once.out);
  EXPECT_EQ(turns("").out, "");
}

TEST(ChatVerb, FollowsGenerationConfig) {
  const test::Scratch scratch;
  write_file(scratch / "lines", "hello\n");
  const auto answer = [&](const std::string& folder, const std::string& options) {
    const test::Run run = run_program("chat --threads 1 -q --dtype f32 --max-tokens 20 " + options + " " +
                                      folder + " <" + (scratch / "lines").string());
    EXPECT_EQ(run.code, 0) << run.err;
    return run.out;
  };
  const std::string greedy = answer(model, "--temperature 0");
  EXPECT_NE(answer(model, "--seed 1"), answer(model, "--seed 2"));  // the file does not say
  {
    const test::Scratch folder;
    copy_model(folder, "generation_config.json", "do_sample", false);
    EXPECT_EQ(answer(folder.path().string(), "--seed 1"), greedy);
    EXPECT_EQ(answer(folder.path().string(), "--seed 2"), greedy);
    EXPECT_EQ(answer(folder.path().string(), "--seed 1 --temperature 0.7"), answer(model, "--seed 1"));
  }
  {
    const test::Scratch folder;
    copy_model(folder, "generation_config.json", "temperature", 1e-9);
    EXPECT_EQ(answer(folder.path().string(), "--seed 1"), greedy);
  }
  const test::Scratch folder;
  copy_model(folder, "generation_config.json", "do_sample", "no");
  EXPECT_THAT(run_program("chat " + folder.path().string()).err, HasSubstr("field 'do_sample'"));
}

TEST(ChatVerb, NeedsATemplate) {
  const test::Scratch scratch;
  for (const auto& entry : std::filesystem::directory_iterator(model))
    std::filesystem::copy_file(entry, scratch / entry.path().filename());
  const std::string plain = scratch.path().string();
  std::ofstream(scratch / "tokenizer_config.json") << R"({"eos_token": "<|im_end|>"})";
  EXPECT_THAT(run_program("chat " + plain).err, HasSubstr(plain + ": the model has no chat template"));
  std::ofstream(scratch / "tokenizer_config.json") << R"({"chat_template": "{% block a %}"})";
  const test::Run run = run_program("chat " + plain);
  EXPECT_EQ(run.code, 1);
  EXPECT_THAT(run.err, HasSubstr(plain + ": chat template, line 1"));
}

}  // namespace
}  // namespace fathom
