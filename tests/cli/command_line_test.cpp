// What every verb owes its user: help, exit codes, and messages that name the file.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <fstream>
#include <sstream>
#include <vector>

#include "program.h"

namespace fathom {
namespace {

using test::run_program;
using testing::AllOf;
using testing::HasSubstr;

const std::string model = FATHOM_TEST_DATA "/models/llama-text ";

std::vector<std::string> lines_of(const std::string& text) {
  std::vector<std::string> lines;
  std::istringstream stream(text);
  for (std::string line; std::getline(stream, line);) lines.push_back(line);
  return lines;
}

/// The verbs that `fathom --help` lists (training may be left out of a build).
std::vector<std::string> verbs() {
  const std::string help = run_program("--help").out;
  std::vector<std::string> names;
  for (const char* name : {"inspect", "tokenize", "logits", "generate", "chat", "eval", "bench", "profile",
                           "prune", "recur", "train", "compress"})
    if (help.find(std::string("\n  ") + name + " ") != std::string::npos) names.emplace_back(name);
  return names;
}

TEST(CommandLine, HelpFitsAScreenAndEndsWithAnExample) {
  const auto names = verbs();
  EXPECT_GE(names.size(), 9U);
  for (const std::string& verb : names) {
    const test::Run run = run_program(verb + " --help");
    EXPECT_EQ(run.code, 0) << verb;
    EXPECT_EQ(run.err, "") << verb;
    const auto lines = lines_of(run.out);
    EXPECT_LE(lines.size(), 60U) << verb;
    for (const std::string& line : lines) EXPECT_LE(line.size(), 120U) << verb << ": " << line;
    const std::size_t example = run.out.rfind("Example:");
    ASSERT_NE(example, std::string::npos) << verb;
    EXPECT_NE(run.out.find("fathom " + verb + " ", example), std::string::npos) << verb;
  }
}

TEST(CommandLine, WrongUsageIsToldFromFailure) {
  const test::Scratch scratch;
  const std::string out = " --out " + (scratch / "out").string();
  EXPECT_EQ(run_program("").code, 2);
  EXPECT_EQ(run_program("shrink").code, 2);
  EXPECT_EQ(run_program("inspect --no-such-option").code, 2);
  const std::string wrong[] = {
      "tokenize " + model + "--text a --file b",
      "logits " + model + "--ids 1,x" + out,
      "logits " + model + "--ids ''" + out,
      "logits " + model + out,  // neither --text nor --ids
      "generate " + model,
      "generate " + model + "--prompt x --top-p 2",
      "generate " + model + "--prompt x --stop ''",
      "eval " + model,
      "eval " + model + "--tasks piqa",  // without --data
      "eval " + model + "--tasks pica --data .",
      "profile " + model + "--tokens 0",
      "prune " + model + out,
      "prune " + model + "--layers 1 --drop 1" + out,
      "prune " + model + "--layers 1 --out ''",
      "prune " + model + "--drop 0" + out,
      "prune " + model + "--layers 3" + out,  // 0 to 2
      "prune " + model + "--drop 1 --by chance" + out,
      "recur " + model + out,
      "recur " + model + "--loops 2 --share cycle --init average" + out};  // 3 layers
  for (const std::string& arguments : wrong) {
    const test::Run run = run_program(arguments);
    EXPECT_EQ(run.code, 2) << arguments << "\n" << run.err;
    EXPECT_EQ(run.out, "") << arguments;
    EXPECT_NE(run.err, "") << arguments;
  }
  EXPECT_FALSE(std::filesystem::exists(scratch / "out"));
}

TEST(CommandLine, AMistypedVerbIsGuessed) {
  const test::Run near = run_program("genrate " + model), far = run_program("shrink");
  EXPECT_EQ(near.code, 2);
  EXPECT_NE(near.err.find("there is no verb 'genrate', did you mean 'generate'?"), std::string::npos)
      << near.err;
  EXPECT_NE(far.err.find("there is no verb 'shrink' (`fathom --help` lists them)"), std::string::npos)
      << far.err;
}

TEST(CommandLine, AnOptionThatDoesNotExistIsNamedWithItsNearest) {
  const test::Run near = run_program("generate " + model + " --promt=x");
  EXPECT_EQ(near.code, 2);
  EXPECT_EQ(near.err,
            "fathom: generate has no option '--promt', did you mean '--prompt'? (`fathom generate --help` "
            "lists them)\n");
  const test::Run words = run_program("generate " + model + " some words");
  EXPECT_EQ(words.code, 2);
  EXPECT_NE(words.err.find("not expected"), std::string::npos) << words.err;
}

TEST(CommandLine, AMissingFileIsNamed) {
  const test::Scratch scratch;
  const std::string gone = (scratch / "gone").string(), out = " --out " + (scratch / "out").string();
  const std::string missing[] = {"inspect " + gone,
                                 "tokenize " + gone + " --text a",
                                 "tokenize " + model + "--file " + gone,
                                 "logits " + gone + " --ids 1" + out,
                                 "generate " + gone + " --prompt x",
                                 "chat " + gone,
                                 "eval " + gone + " --text a",
                                 "eval " + model + "--text " + gone,
                                 "eval " + model + "--tasks piqa --data " + gone,
                                 "profile " + model + "--text " + gone,
                                 "prune " + gone + " --layers 1" + out,
                                 "prune " + model + "--drop 1 --text " + gone + out,
                                 "recur " + gone + " --loops 3" + out,
                                 "recur " + model + "--loops 3 --share cycle --text " + gone + out};
  for (const std::string& arguments : missing) {
    const test::Run run = run_program(arguments + " </dev/null");
    EXPECT_EQ(run.code, 1) << arguments;
    EXPECT_THAT(run.err, AllOf(HasSubstr("fathom: "), HasSubstr(gone))) << arguments;
  }
  EXPECT_FALSE(std::filesystem::exists(scratch / "out"));
}

TEST(CommandLine, WhatAFileHoldsDoesNotReachTheTerminalAsItIs) {
  const test::Scratch scratch;
  std::ofstream(scratch / "config.json") << R"({"model_type": "\u001b[2J\n"})";
  const test::Run run = run_program("inspect " + (scratch / "config.json").string());
  EXPECT_EQ(run.code, 1);
  EXPECT_THAT(run.err, HasSubstr("[2J"));
  EXPECT_EQ(run.err.find('\x1b'), std::string::npos);
  EXPECT_EQ(run.err.find('\n'), run.err.size() - 1);
}

TEST(CommandLine, OutputThatCannotBeWrittenIsNamed) {
  const test::Run run = run_program("logits " + model + "--ids 1 --out /no/such/folder/a.npy");
  EXPECT_EQ(run.code, 1);
  EXPECT_THAT(run.err, HasSubstr("/no/such/folder/a.npy"));
  EXPECT_EQ(run_program("inspect " + model + "--json /dev/full").code, 1);
  const std::string full = " >/dev/full 2>/dev/null || exit $?; true";  // run_program redirects what is last
  for (const std::string& arguments :
       {std::string("--help"), "inspect " + model, "tokenize " + model + "--text a"})
    EXPECT_EQ(run_program(arguments + full).code, 1) << arguments;
}

}  // namespace
}  // namespace fathom
