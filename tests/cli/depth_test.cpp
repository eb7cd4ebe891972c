// Verbs that measure and change depth: profile, prune, recur.
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
using testing::ElementsAre;
using testing::HasSubstr;
using testing::Not;

const std::string model = FATHOM_TEST_DATA "/models/llama-text --threads 1 ";

/// A scratch folder with some text.
struct Folder : test::Scratch {
  Folder() {
    std::ofstream text(*this / "a.txt");
    for (int i = 0; i < 60; ++i) text << "Sentence number " << i * 37 % 100 << " of the text.\n";
  }
  std::string text() const { return " --context 32 --text " + (*this / "a.txt").string(); }
  std::string out() const { return " --out " + (*this / "out").string(); }
};

TEST(ProfileVerb, TablesJsonAndAPageThatNeedsNoNetwork) {
  const Folder folder;
  const auto page = folder / "page.html";
  const test::Run run = run_program("profile " + model + folder.text() + " --html " + page.string());
  ASSERT_EQ(run.code, 0) << run.err;
  EXPECT_THAT(run.out, HasSubstr("influence"));
  EXPECT_THAT(run.out, HasSubstr("angular distance"));
  const std::string html = read_file(page);
  EXPECT_THAT(html, HasSubstr("<svg"));
  EXPECT_THAT(html, Not(HasSubstr("src=")));
  const Json json = json_of(run_program("profile " + model + folder.text() + " --json -"));
  EXPECT_EQ(json["block_influence"].size(), 3U);
  EXPECT_EQ(json["angular_distance"].size(), 3U);
}

TEST(PruneVerb, ExplicitLayersGiveAnOrdinaryModel) {
  const Folder folder;
  const Json json = json_of(run_program("prune " + model + "--layers 0,2 --json -" + folder.out()));
  EXPECT_EQ(json["dropped"], Json::parse("[0, 2]"));
  const Json config = read_json(folder / "out" / "config.json");
  EXPECT_EQ(config["num_hidden_layers"], 1);
  EXPECT_EQ(config["model_type"], "llama");
  EXPECT_THAT(run_program("inspect " + (folder / "out").string()).out, HasSubstr("plan           1 layer"));
  const std::string generate = "generate " + (folder / "out").string() + " --prompt Hello --max-tokens 2";
  EXPECT_EQ(run_program(generate).code, 0);  // the tokenizer came along
}

TEST(PruneVerb, EveryMethodChoosesAndAnExistingModelIsKept) {
  const Folder folder;
  for (const std::string by : {"similarity", "last", "influence", "influence-block", "perplexity"}) {
    const std::string arguments = "prune " + model + "--drop 1 --by " + by + folder.text() + folder.out();
    const Json json = json_of(run_program(arguments + " --overwrite --json -"));
    EXPECT_EQ(json["dropped"].size(), 1U) << by;
    EXPECT_EQ(json["layers"], 2) << by;
    EXPECT_LT(json["parameters"].get<std::int64_t>(), json["parameters_before"].get<std::int64_t>()) << by;
    if (by == "last") {
      EXPECT_EQ(json["dropped"], Json::parse("[1]"));
    }
    const test::Run again = run_program(arguments);
    EXPECT_EQ(again.code, 1) << by;
    EXPECT_THAT(again.err, HasSubstr((folder / "out").string())) << by;
  }
}

TEST(RecurVerb, CalibratedOnATextOrOnItsOwnSamples) {
  const Folder folder;
  const std::string arguments =
      "recur " + model + "--loops 3 --share sequence --rank 4 --rounds 1 --overwrite --json - ";
  for (const std::string& measured : {folder.text(), std::string(" --context 32 --tokens 512")}) {
    const test::Run run = run_program(arguments + measured + folder.out());
    const Json json = json_of(run);
    EXPECT_EQ(json["plan"]["visits"].size(), 3U);
    EXPECT_EQ(json["relative_error"].size(), 3U);
    EXPECT_THAT(run.err, HasSubstr("wrote "));
    const Json inspected = json_of(run_program("inspect --json - " + (folder / "out").string()));
    EXPECT_EQ(inspected["plan"]["layers"], 1);
    EXPECT_GT(inspected["parameters"]["adapters"].get<std::int64_t>(), 0);
    const Json& provenance = inspected["provenance"];
    ASSERT_EQ(provenance.size(), 2U);
    EXPECT_EQ(provenance[0]["command"], "recur");
    EXPECT_EQ(provenance[1]["command"], "repair");
  }
}

TEST(RecurVerb, ATextWithoutCalibrationIsWrongUsage) {
  const Folder folder;
  const test::Run run =
      run_program("recur " + model + "--loops 3 --share cycle --init average" + folder.text() + folder.out());
  EXPECT_EQ(run.code, 2);
  EXPECT_THAT(run.err, HasSubstr("--init is average"));
}

TEST(ExitsVerb, FitsWhatGenerateEvalAndBenchUse) {
  const Folder folder;
  const auto out = (folder / "out").string();
  const std::string exits = "exits " + model + "--at 1,2 --gate --shortlist 40 --overwrite --json - ";
  for (const std::string& measured : {folder.text(), std::string(" --context 32 --tokens 512")}) {
    const test::Run run = run_program(exits + measured + folder.out());
    const Json json = json_of(run);
    ASSERT_EQ(json["exits"].size(), 2U);
    EXPECT_EQ(json["exits"][1]["depth"], 2);
    EXPECT_GT(json["exits"][1]["after"]["agreement"], 0);
    EXPECT_THAT(run.err, HasSubstr("as full depth"));
  }
  const std::string generate = "generate --prompt Hello --max-tokens 6 --json - ";
  const Json full = json_of(run_program(generate + model)), fitted = json_of(run_program(generate + out));
  EXPECT_EQ(full["tokens"], fitted["tokens"]);
  EXPECT_EQ(json_of(run_program(generate + out + " --draft 2:3"))["tokens"], full["tokens"]);
  EXPECT_EQ(run_program(generate + out + " --exit gate:0.2").code, 0);
  const test::Run oracle = run_program(generate + out + " --exit oracle");
  EXPECT_EQ(oracle.code, 2);
  EXPECT_THAT(oracle.err, HasSubstr("fathom eval --exit oracle"));
  const Json eval = json_of(run_program("eval " + out + " --json - --exit oracle" + folder.text()));
  EXPECT_EQ(eval["exits"]["agreement"], 1);
  const Json inspected = json_of(run_program("inspect --json - " + out));
  EXPECT_GT(inspected["parameters"]["exits"], 0);
  // Other layers: what was fitted to these is gone, and that is said.
  const test::Run pruned = run_program("prune " + out + " --layers 1 --out " + (folder / "pruned").string());
  EXPECT_EQ(pruned.code, 0) << pruned.err;
  EXPECT_THAT(pruned.err, HasSubstr("exits.safetensors"));
  EXPECT_EQ(json_of(run_program("inspect --json - " + (folder / "pruned").string()))["parameters"]["exits"],
            0);
}

TEST(ExitsVerb, WrongDepthsAreToldBeforeAnyWork) {
  const Folder folder;
  const test::Run run = run_program("exits " + model + "--at 1,3" + folder.text() + folder.out());
  EXPECT_EQ(run.code, 2);
  EXPECT_THAT(run.err, HasSubstr("expected ascending numbers from 1 to 2"));
}

}  // namespace
}  // namespace fathom
