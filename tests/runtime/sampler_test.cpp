#include "runtime/sampler.h"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <map>

#include "base/error.h"

namespace fathom {
namespace {

constexpr float infinity = std::numeric_limits<float>::infinity();

/// How often each token is picked in `draws` draws.
std::map<Token, double> frequencies(const SamplerOptions& options, const std::vector<float>& logits,
                                    const std::vector<Token>& seen = {}, int draws = 20000) {
  Sampler sampler(options);
  std::map<Token, double> result;
  for (int i = 0; i < draws; i++) {
    std::vector<float> copy = logits;
    result[sampler.pick(copy, seen)] += 1.0 / draws;
  }
  return result;
}

std::vector<Token> kept(const SamplerOptions& options, const std::vector<float>& logits,
                        const std::vector<Token>& seen = {}) {
  std::vector<Token> tokens;
  for (const auto& [token, frequency] : frequencies(options, logits, seen)) tokens.push_back(token);
  return tokens;
}

std::vector<float> logs(std::vector<float> probabilities) {
  for (float& p : probabilities) p = std::log(p);
  return probabilities;
}

TEST(Sampler, GreedyTakesTheFirstOfTheLargest) {
  std::vector<float> logits = {1, 3, -2, 3};
  EXPECT_EQ(Sampler({}).pick(logits, {}), 1);
}

TEST(Sampler, DrawsByProbabilityAtATemperature) {
  const auto at_one = frequencies({.temperature = 1}, logs({0.5F, 0.3F, 0.2F}));
  EXPECT_NEAR(at_one.at(0), 0.5, 0.02);
  EXPECT_NEAR(at_one.at(1), 0.3, 0.02);
  EXPECT_NEAR(at_one.at(2), 0.2, 0.02);
  // At temperature 1/2 probabilities are squared: 25 : 9 : 4.
  const auto colder = frequencies({.temperature = 0.5}, logs({0.5F, 0.3F, 0.2F}));
  EXPECT_NEAR(colder.at(0), 25.0 / 38, 0.02);
  EXPECT_NEAR(colder.at(2), 4.0 / 38, 0.02);
  EXPECT_EQ(kept({.temperature = 1e-30}, {1, 1.001F, 0}), std::vector<Token>{1});
}

TEST(Sampler, TopKKeepsTies) {
  EXPECT_EQ(kept({.temperature = 1, .top_k = 2}, {0, 1, 2, 1.5F}), (std::vector<Token>{2, 3}));
  EXPECT_EQ(kept({.temperature = 1, .top_k = 2}, {1, 1, 2, 0}), (std::vector<Token>{0, 1, 2}));
  EXPECT_EQ(kept({.temperature = 1, .top_k = 9}, {1, 1}), (std::vector<Token>{0, 1}));
}

TEST(Sampler, TopPKeepsTheSmallestSetThatIsProbableEnough) {
  const auto logits = logs({0.4F, 0.1F, 0.3F, 0.2F});
  EXPECT_EQ(kept({.temperature = 1, .top_p = 0.3}, logits), (std::vector<Token>{0}));
  EXPECT_EQ(kept({.temperature = 1, .top_p = 0.6}, logits), (std::vector<Token>{0, 2}));
  EXPECT_EQ(kept({.temperature = 1, .top_p = 0.85}, logits), (std::vector<Token>{0, 2, 3}));
  // Of what top-k left: 0.4 / 0.7 is enough.
  EXPECT_EQ(kept({.temperature = 1, .top_k = 2, .top_p = 0.55}, logits), (std::vector<Token>{0}));
}

TEST(Sampler, TopPOverAFlatVocabularySortsMoreThanItsFirstHead) {
  const auto tokens = kept({.temperature = 1, .top_p = 0.5}, std::vector<float>(600, 0.0F));
  EXPECT_EQ(tokens.size(), 300U);
  EXPECT_EQ(tokens.back(), 299);  // ties by token
}

TEST(Sampler, MinPIsRelativeToTheMostProbable) {
  const auto logits = logs({0.5F, 0.24F, 0.26F});
  EXPECT_EQ(kept({.temperature = 1, .min_p = 0.5}, logits), (std::vector<Token>{0, 2}));
}

TEST(Sampler, ThePenaltyDividesPositiveAndMultipliesNegativeLogitsOnce) {
  std::vector<float> logits = {4, 3.9F, -1};
  EXPECT_EQ(Sampler({.repetition_penalty = 2}).pick(logits, std::vector<Token>{0, 0, 2, 77}), 1);
  EXPECT_EQ(logits, (std::vector<float>{2, 3.9F, -2}));
}

TEST(Sampler, TheSeedDecides) {
  const std::vector<float> logits(100, 0.0F);
  const auto draw = [&](std::uint64_t seed) {
    Sampler sampler({.temperature = 1, .seed = seed});
    std::vector<Token> tokens;
    for (int i = 0; i < 20; i++) {
      std::vector<float> copy = logits;
      tokens.push_back(sampler.pick(copy, {}));
    }
    return tokens;
  };
  EXPECT_EQ(draw(1), draw(1));
  EXPECT_NE(draw(1), draw(2));
}

TEST(Sampler, BrokenLogitsAreErrorsAndMaskedOnesAreNotPicked) {
  std::vector<float> nan = {0, std::nanf(""), 1}, infinite = {0, infinity}, none = {-infinity, -infinity};
  EXPECT_THROW(Sampler({}).pick(nan, {}), Error);
  EXPECT_THROW(Sampler({}).pick(infinite, {}), Error);
  EXPECT_THROW(Sampler({}).pick(none, {}), Error);
  EXPECT_EQ(kept({.temperature = 1}, {-infinity, 0, -infinity}), std::vector<Token>{1});
}

TEST(Sampler, OptionsOutOfRangeAreWrongUsage) {
  EXPECT_THROW(Sampler({.temperature = -1}), UsageError);
  EXPECT_THROW(Sampler({.temperature = NAN}), UsageError);
  EXPECT_THROW(Sampler({.top_k = -1}), UsageError);
  EXPECT_THROW(Sampler({.top_p = 0}), UsageError);
  EXPECT_THROW(Sampler({.top_p = 1.5}), UsageError);
  EXPECT_THROW(Sampler({.min_p = -0.1}), UsageError);
  EXPECT_THROW(Sampler({.repetition_penalty = 0}), UsageError);
}

}  // namespace
}  // namespace fathom
