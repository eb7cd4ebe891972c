#include "eval/exits.h"

#include <fmt/format.h>
#include <gtest/gtest.h>

#include <optional>
#include <string>
#include <vector>

#include "base/error.h"
#include "runtime/small_models.h"

namespace fathom {
namespace {

class ExitsOf : public testing::Test {
 protected:
  ExitsOf() {
    model_.plan.visits[1].exit = model_.plan.visits[3].exit = true;
    engine_.emplace(model_);
  }
  ExitQuality quality(const std::string& rule, ExitedKv policy = ExitedKv::exact) {
    return exit_quality(*engine_, text_, 24, -1, 0,
                        {.exit = parse_exit_rule(rule, model_.plan), .exited_kv = policy});
  }

  Checkpoint model_ = recursive("llama", 3);
  std::vector<Token> text_ = some_tokens(model_, 200);
  std::optional<Engine> engine_;
};

TEST_F(ExitsOf, ARuleThatLetsNobodyLeaveIsFullDepth) {
  const ExitQuality never = quality("top1:1.1");
  const Perplexity whole = perplexity(*engine_, text_, 24, -1);
  EXPECT_NEAR(never.perplexity.nll, whole.nll, 1e-5);
  EXPECT_EQ(never.perplexity.tokens, whole.tokens);
  EXPECT_EQ(never.visits, 6);
  EXPECT_EQ(never.agreement, 1);
}

TEST_F(ExitsOf, LeavingCostsQualityAndSparesVisits) {
  const ExitQuality early = quality("depth:2"), late = quality("depth:4");
  // A window's first token has full depth.
  EXPECT_NEAR(early.visits, (6 + 22 * 2) / 23.0, 1e-9);
  EXPECT_NEAR(late.visits, (6 + 22 * 4) / 23.0, 1e-9);
  EXPECT_LT(early.agreement, 1);
  EXPECT_NE(quality("depth:2", ExitedKv::skip).perplexity.nll,
            quality("depth:4", ExitedKv::skip).perplexity.nll);
}

TEST_F(ExitsOf, TheOracleLeavesAsSoonAsFullDepthWouldSayTheSame) {
  const ExitQuality oracle = quality("oracle");
  EXPECT_EQ(oracle.agreement, 1);
  EXPECT_LT(oracle.visits, 6);
  EXPECT_GT(oracle.visits, 2);
}

TEST_F(ExitsOf, AThresholdIsFoundAtWhichEnoughTokensAgree) {
  for (const std::string rule : {"top1", "entropy"}) {
    constexpr double wanted = 0.8;
    const double threshold = calibrate_exit(*engine_, text_, 24, -1, 0, rule, ExitedKv::exact, wanted);
    const auto agreement = [&](double at) { return quality(fmt::format("{}:{}", rule, at)).agreement; };
    EXPECT_GE(agreement(threshold), wanted) << rule;
    EXPECT_LT(agreement(rule == "top1" ? threshold - 0.01 : threshold + 0.1), wanted + 0.05) << rule;
  }
  EXPECT_THROW(calibrate_exit(*engine_, text_, 24, -1, 0, "agree", ExitedKv::exact, 0.9), UsageError);
}

}  // namespace
}  // namespace fathom
