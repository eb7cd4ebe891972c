#include "train/packing.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <map>

#include "base/error.h"

namespace fathom {
namespace {

std::vector<std::vector<Token>> documents(int count, int length) {
  std::vector<std::vector<Token>> result(count);
  Token next = 1;
  for (auto& document : result) {
    for (int i = 0; i < length; ++i) document.push_back(next++);
  }
  return result;
}

TEST(Packing, EveryTokenIsPredictedOnceAnEpoch) {
  Packing packing(documents(7, 11), 0, 12, -1, 5);  // 7 * 12 tokens: whole sequences
  ASSERT_EQ(packing.sequences(), 7);
  for (const int epoch : {0, 1, 5}) {
    std::map<Token, int> predicted;
    for (int i = 0; i < 7; ++i) {
      for (const Token token : packing.at(epoch * 7 + i).labels) ++predicted[token];
    }
    for (Token token = 1; token <= 77; ++token) EXPECT_EQ(predicted[token], 1) << token;
    EXPECT_EQ(predicted[0], 7);  // a separator after each document
  }
}

TEST(Packing, LabelsAreTheNextTokens) {
  Packing packing({{1, 2, 3}, {4, 5}}, 9, 4, -1, 0);  // 1 2 3 9 4 5 9 | from the start: 1 2 3
  for (int i = 0; i < 2; ++i) {
    const Sequence sequence = packing.at(i);
    if (sequence.inputs.front() == 1) {
      EXPECT_THAT(sequence.inputs, testing::ElementsAre(1, 2, 3, 9));
      EXPECT_THAT(sequence.labels, testing::ElementsAre(2, 3, 9, 4));
    } else {
      EXPECT_THAT(sequence.inputs, testing::ElementsAre(4, 5, 9, 1));
      EXPECT_THAT(sequence.labels, testing::ElementsAre(5, 9, 1, 2));
    }
  }
}

TEST(Packing, BosLeadsEverySequenceWhereAsked) {
  Packing packing({{1, 2, 3}, {4, 5, 6}}, 9, 4, 7, 0);
  for (int i = 0; i < 2; ++i) {
    const Sequence sequence = packing.at(i);
    if (sequence.labels.front() == 1) {
      EXPECT_THAT(sequence.inputs, testing::ElementsAre(7, 1, 2, 3));
      EXPECT_THAT(sequence.labels, testing::ElementsAre(1, 2, 3, 9));
    } else {
      EXPECT_THAT(sequence.inputs, testing::ElementsAre(7, 4, 5, 6));
    }
  }
}

TEST(Packing, OrderFollowsFromSeedAndEpochAlone) {
  const auto order = [](std::uint64_t seed, int first) {
    Packing packing(documents(40, 3), 0, 4, -1, seed);
    std::vector<Token> result;
    for (int i = first; i < first + 40; ++i) result.push_back(packing.at(i).inputs.front());
    return result;
  };
  EXPECT_EQ(order(1, 40), order(1, 40));
  EXPECT_NE(order(1, 0), order(1, 40));
  EXPECT_NE(order(1, 0), order(2, 0));
}

TEST(Packing, AnEmptyTextIsAnError) { EXPECT_THROW(Packing({{}, {}}, 0, 4, -1, 0), Error); }

}  // namespace
}  // namespace fathom
