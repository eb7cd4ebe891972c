#include "measure/perplexity.h"

#include <gtest/gtest.h>

#include <cmath>
#include <string>

#include "base/error.h"
#include "base/progress.h"
#include "base/threads.h"
#include "model/checkpoint.h"
#include "oracle.h"

namespace fathom {
namespace {

/// On one thread: to start a parallel loop over a tiny model takes longer than to run it.
Engine tiny_engine(const Oracle& oracle) {
  set_threads(1);
  set_quiet(true);
  return Engine(load_checkpoint(oracle.model));
}

class PerplexityOf : public testing::TestWithParam<std::string> {
 protected:
  PerplexityOf() : oracle_(load_oracle(GetParam())), engine_(tiny_engine(oracle_)) {}
  std::int64_t length() const { return static_cast<std::int64_t>(oracle_.ids.size()); }

  Oracle oracle_;
  Engine engine_;
};

TEST_P(PerplexityOf, WithoutBosTheFirstTokenOfAWindowIsNotScored) {
  const auto result = perplexity(engine_, oracle_.ids, length(), -1);
  EXPECT_EQ(result.tokens, length() - 1);
  EXPECT_NEAR(result.nll, oracle_.loss, 1e-4);
  EXPECT_NEAR(result.perplexity(), std::exp(oracle_.loss), 1e-4 * std::exp(oracle_.loss));
}

TEST_P(PerplexityOf, WithBosItIs) {
  // The oracle's first token as BOS before a window of the others: the same loss.
  const auto result = perplexity(engine_, std::span(oracle_.ids).subspan(1), length() - 1, oracle_.ids[0]);
  EXPECT_EQ(result.tokens, length() - 1);
  EXPECT_NEAR(result.nll, oracle_.loss, 1e-4);
}

TEST_P(PerplexityOf, WindowsAreIndependentAndALastShortOneIsLeftOut) {
  auto text = oracle_.ids;
  for (int i = 0; i < 2; ++i) text.insert(text.end(), oracle_.ids.begin(), oracle_.ids.end());
  text.pop_back();
  const auto result = perplexity(engine_, text, length(), -1);
  EXPECT_EQ(result.tokens, 2 * (length() - 1));
  EXPECT_NEAR(result.nll, oracle_.loss, 1e-4);
  EXPECT_EQ(perplexity(engine_, text, length(), -1, 1).tokens, length() - 1);
}

INSTANTIATE_TEST_SUITE_P(Models, PerplexityOf, testing::Values("llama", "gemma2", "gemma3-gguf"));

TEST(Perplexity, ErrorIsThatOfAMeanOfWindows) {
  // Losses 2, 3, 4, 5: standard deviation sqrt(5 / 3), of the mean half of that.
  const std::vector<double> losses = {2, 3, 4, 5};
  const Perplexity result = perplexity_of(losses, 7);
  EXPECT_DOUBLE_EQ(result.nll, 3.5);
  EXPECT_NEAR(result.error, std::sqrt(5.0 / 3) / 2, 1e-12);
  EXPECT_NEAR(result.perplexity_error(), std::exp(3.5) * result.error, 1e-9);
  EXPECT_EQ(result.tokens, 28);
  EXPECT_EQ(perplexity_of(std::span(losses).first(1), 7).error, 0);
}

TEST(Perplexity, SaysWhatIsWrong) {
  const Oracle oracle = load_oracle("llama");
  Engine engine = tiny_engine(oracle);
  EXPECT_THROW(perplexity(engine, oracle.ids, 29, -1), Error);        // shorter than one window
  EXPECT_THROW(perplexity(engine, oracle.ids, 1, -1), UsageError);    // nothing to score
  EXPECT_THROW(perplexity(engine, oracle.ids, 257, -1), UsageError);  // longer than the model's context
  auto outside = oracle.ids;
  outside.back() = 80;
  EXPECT_THROW(perplexity(engine, outside, 28, -1), Error);
}

}  // namespace
}  // namespace fathom
