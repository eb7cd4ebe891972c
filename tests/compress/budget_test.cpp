// What fits a budget, and the table that accounts for it.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "base/error.h"
#include "base/progress.h"
#include "base/threads.h"
#include "compress/candidates.h"
#include "compress/compress.h"
#include "depth/tiny.h"

namespace fathom {
namespace {

using testing::HasSubstr;

/// Non-embedding parameters of the recursive form that `options` make.
std::int64_t recursive_size(const Checkpoint& model, RecurOptions options) {
  options.init = SharedInit::average;
  options.lora = LoraInit::zero;
  return count_parameters(recur(model, options, {})).non_embedding();
}

TEST(RecursionWithin, MeetsTheTargetWithTheFewestLoopsAndTheLargestRank) {
  set_threads(1);
  const Checkpoint model = deep_model("llama", 8);
  const auto full = static_cast<double>(count_parameters(model).non_embedding());
  for (const double target : {0.98, 0.95, 0.9, 0.85, 0.8, 0.76}) {
    const RecurOptions options = recursion_within(model, target);
    const auto budget = static_cast<std::int64_t>(target * full);
    EXPECT_LE(recursive_size(model, options), budget) << target;
    RecurOptions other = options;
    other.rank += 8;
    EXPECT_GT(recursive_size(model, other), budget) << target;
    for (other.rank = 8, other.loops = 2; other.loops < options.loops; ++other.loops) {
      if (6 % other.loops == 0)
        other.sharing = Sharing::middle_sequence;
      else if (8 % other.loops == 0)
        other.sharing = Sharing::sequence;
      else
        continue;
      EXPECT_GT(recursive_size(model, other), budget) << target << ", " << other.loops << " loops";
    }
  }
}

TEST(RecursionWithin, LeavesTheEndsUntiedWhereTheDepthAllowsIt) {
  EXPECT_EQ(recursion_within(deep_model("llama", 8), 0.99).sharing, Sharing::middle_sequence);
  EXPECT_EQ(recursion_within(deep_model("llama", 3), 0.95).sharing, Sharing::sequence);
}

TEST(RecursionWithin, AnImpossibleTargetIsToldWithTheSmallestOne) {
  try {
    recursion_within(deep_model("llama", 8), 0.01);
    FAIL();
  } catch (const UsageError& e) {
    EXPECT_THAT(e.what(), HasSubstr("the smallest is 0."));
  }
}

TEST(PruneTo, DropsTheFewestLayersThatMeetTheTarget) {
  set_threads(1);
  set_quiet(true);
  const Checkpoint model = deep_model("llama", 6);
  const std::vector<Token> ids = random_text(model, 64);
  const Profile profile = profile_depth(model, ids, {.context = 16, .max_tokens = 64});
  const std::int64_t full = count_parameters(model).non_embedding();
  const struct {
    double target;
    std::int64_t layers;
  } cases[] = {{0.9, 5}, {0.75, 4}, {0.51, 3}, {0.4, 2}};
  for (const auto& [target, layers] : cases) {
    const Candidate candidate = prune_to(model, profile, target);
    EXPECT_EQ(candidate.cut.plan.layers, layers) << target;
    EXPECT_LE(count_parameters(candidate.cut).non_embedding(),
              static_cast<std::int64_t>(target * static_cast<double>(full)));
    EXPECT_THAT(candidate.what, HasSubstr("dropped"));
  }
  EXPECT_THROW(prune_to(model, profile, 0.2), UsageError);  // two of six layers are a third
}

Json figures(double nll, double perplexity, std::int64_t non_embedding, bool timed = true) {
  Json figures = {{"parameters", non_embedding + 1000},
                  {"non_embedding", non_embedding},
                  {"bf16_bytes", 2 * (non_embedding + 1000)},
                  {"nll", nll},
                  {"tokens", 4096},
                  {"perplexity", perplexity},
                  {"perplexity_stderr", perplexity / 40}};
  if (timed) figures["speed"] = {{"prompt", 1234.4}, {"generate", 56.78}};
  return figures;
}

TEST(AccountTable, HasAColumnForEveryStage) {
  const Json account = {{"before", figures(3, 20.0855, 8'000'000)},
                        {"candidates",
                         {{{"method", "prune"},
                           {"what", "layers 3-4 dropped"},
                           {"cut", figures(4, 54.5982, 6'000'000, false)},
                           {"repaired", figures(3.5, 33.12, 6'000'000, false)},
                           {"trained", figures(3.25, 25.7903, 6'000'000)},
                           {"recovered", 0.75}},
                          {{"method", "recur"},
                           {"what", "tied"},
                           {"cut", figures(12, 162'754.8, 5'000'000, false)},
                           {"behind", 8.5}}}},
                        {"chosen", "prune"},
                        {"data", {{"eval", "wiki.txt"}}}};
  const auto rows = account_rows(account);
  EXPECT_EQ(rows[0], (std::vector<std::string>{"", "original", "prune, cut", "prune, repaired",
                                               "prune, trained", "recur, cut"}));
  const auto row = [&](const std::string& name) {
    for (const auto& cells : rows)
      if (cells[0] == name) return cells;
    return std::vector<std::string>(6);
  };
  EXPECT_EQ(row("  of the original")[2], "75.0%");
  EXPECT_EQ(row("perplexity")[1], "20.09");
  EXPECT_EQ(row("  standard error")[1], "0.50");
  EXPECT_EQ(row("perplexity")[5], "1.63e+05");
  EXPECT_EQ(row("generated tokens/s")[4], "56.8");
  EXPECT_EQ(row("generated tokens/s")[3], "");  // a cut model is as fast as what becomes of it

  const std::string table = account_table(account);
  EXPECT_THAT(table, HasSubstr("prune: layers 3-4 dropped; 75% of the lost log-perplexity was won back"));
  EXPECT_THAT(table, HasSubstr("recur: tied; not trained, since it was 8.50 nats behind"));
  EXPECT_THAT(table, HasSubstr("Kept: prune. Perplexity is over 4096 tokens of wiki.txt."));
}

}  // namespace
}  // namespace fathom
