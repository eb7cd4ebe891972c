#include "corpus/packing.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <map>
#include <set>

#include "base/error.h"

namespace fathom {
namespace {

using testing::ElementsAre;

TokenStore store(const std::vector<std::vector<Token>>& documents, Token separator) {
  return store_documents(documents, separator, "text");
}

/// `count` documents of `length` tokens, which count up from `first`.
TokenStore counting(int count, int length, Token first = 1) {
  std::vector<std::vector<Token>> documents(static_cast<std::size_t>(count));
  for (auto& document : documents) {
    for (int i = 0; i < length; ++i) document.push_back(first++);
  }
  return store(documents, 0);
}

Packing packing(const TokenStore& text, std::int64_t context, Token bos = -1, std::uint64_t seed = 0,
                bool within_documents = false) {
  return {
      {{.store = text}},
      {.context = context, .vocab = 1000, .bos = bos, .within_documents = within_documents, .seed = seed}};
}

/// The sequence that reads `first` first, among the epoch's.
Sequence starting_with(Packing& text, Token first) {
  for (std::int64_t i = 0; i < text.sequences(); ++i) {
    if (const Sequence sequence = text.at(i); sequence.inputs.front() == first) return sequence;
  }
  return {};
}

TEST(Packing, EveryTokenIsPredictedOnceAnEpoch) {
  for (const int context : {12, 9, 50, 84, 100}) {  // 84 tokens: whole sequences, part of one, more than all
    for (const Token bos : {-1, 500}) {
      Packing text = packing(counting(7, 11), context, bos, 5);
      for (const std::int64_t epoch : {0, 1, 5}) {
        std::map<Token, int> predicted;
        for (std::int64_t i = 0; i < text.sequences(); ++i) {
          for (const Token token : text.at(epoch * text.sequences() + i).labels) ++predicted[token];
        }
        for (Token token = 1; token <= 77; ++token) EXPECT_EQ(predicted[token], 1) << token;
        EXPECT_EQ(predicted[0], 7);  // a separator after each document
      }
    }
  }
}

TEST(Packing, LabelsAreTheNextTokens) {
  // 1 2 3 9 4 5 9 | from the start, only read: 1 2
  Packing text = packing(store({{1, 2, 3}, {4, 5}}, 9), 4);
  const Sequence first = starting_with(text, 1), last = starting_with(text, 4);
  EXPECT_THAT(first.inputs, ElementsAre(1, 2, 3, 9));
  EXPECT_THAT(first.labels, ElementsAre(2, 3, 9, 4));
  EXPECT_THAT(last.inputs, ElementsAre(4, 5, 9, 1));
  EXPECT_THAT(last.labels, ElementsAre(5, 9, 1, -1));
}

TEST(Packing, BosLeadsEverySequenceWhereAsked) {
  Packing text = packing(store({{1, 2, 3}, {4, 5, 6}}, 9), 4, 7);
  for (int i = 0; i < 2; ++i) {
    const Sequence sequence = text.at(i);
    if (sequence.labels.front() == 1) {
      EXPECT_THAT(sequence.inputs, ElementsAre(7, 1, 2, 3));
      EXPECT_THAT(sequence.labels, ElementsAre(1, 2, 3, 9));
    } else {
      EXPECT_THAT(sequence.inputs, ElementsAre(7, 4, 5, 6));
    }
  }
}

TEST(Packing, KeptWithinDocumentsRowsStartWhereADocumentIsPredicted) {
  Packing text = packing(store({{1, 2, 3}, {4, 5}, {6}}, 9), 9, -1, 0, true);  // 1 2 3 9 4 5 9 6 9
  const Sequence sequence = text.at(0);
  EXPECT_THAT(sequence.inputs, ElementsAre(1, 2, 3, 9, 4, 5, 9, 6, 9));
  EXPECT_THAT(sequence.starts, ElementsAre(0, 3, 6, 8));  // the last predicts the first document again

  Packing with_bos = packing(store({{1, 2, 3}, {4, 5}, {6}}, 9), 9, 7, 0, true);
  EXPECT_THAT(with_bos.at(0).inputs, ElementsAre(7, 1, 2, 3, 7, 4, 5, 7, 6));
  EXPECT_THAT(with_bos.at(0).labels, ElementsAre(1, 2, 3, 9, 4, 5, 9, 6, 9));
  EXPECT_THAT(with_bos.at(0).starts, ElementsAre(0, 4, 7));
}

TEST(Packing, WhatIsOnlyReadIsNoLabel) {
  Packing text = packing(store({{~1, ~2, 3, 4, ~5}}, 9), 6);
  EXPECT_THAT(text.at(0).inputs, ElementsAre(1, 2, 3, 4, 5, 9));
  EXPECT_THAT(text.at(0).labels, ElementsAre(-1, 3, 4, -1, 9, -1));
}

TEST(Packing, SequencesWithNothingToLearnAreLeftOut) {
  // Long prompts (~1) with an answer that counts up behind each.
  std::vector<std::vector<Token>> documents;
  for (Token answer = 10; answer < 40; answer += 3) {
    documents.emplace_back(30 + answer % 7, ~1);
    for (Token i = 0; i < 3; ++i) documents.back().push_back(answer + i);
  }
  const TokenStore prompts = store(documents, ~2);
  for (const Token bos : {-1, 500}) {
    Packing text = packing(prompts, 8, bos, 3);
    EXPECT_GE(text.sequences(), 10);
    EXPECT_LE(text.sequences(), 20);  // an answer lies in one or two
    EXPECT_EQ(text.sequences() + text.left_out(), (prompts.size() + 7) / 8);
    for (const std::int64_t epoch : {0, 3}) {
      std::map<Token, int> predicted;
      std::set<std::int64_t> places;
      for (std::int64_t i = 0; i < text.sequences(); ++i) {
        const Sequence sequence = text.at(epoch * text.sequences() + i);
        int learned = 0;
        for (const Token label : sequence.labels) {
          if (label >= 0) ++predicted[label], ++learned;
        }
        EXPECT_GT(learned, 0);
        places.insert(sequence.place);
      }
      EXPECT_EQ(std::ssize(places), text.sequences());
      EXPECT_GE(*places.rbegin(), text.sequences());  // where they lie among all, also those left out
      EXPECT_EQ(predicted.size(), 30U);
      for (const auto& [token, times] : predicted) EXPECT_EQ(times, 1) << token;
    }
  }
}

TEST(Packing, ASourceOfWhichPartIsLeftOutKeepsItsShare) {
  std::vector<Token> prompt(400, ~1);
  prompt.insert(prompt.end(), {100, 101, 102});
  Packing text({{.store = store({prompt}, ~2), .weight = 1}, {.store = counting(10, 3), .weight = 3}},
               {.context = 4, .vocab = 1000, .seed = 3});
  int first = 0;
  for (std::int64_t i = 0; i < 80; ++i) {
    const auto labels = text.at(i).labels;
    first += std::ranges::any_of(labels, [](Token label) { return label >= 100; }) ? 1 : 0;
    EXPECT_TRUE(std::ranges::any_of(labels, [](Token label) { return label >= 0; })) << i;
  }
  EXPECT_EQ(first, 20);
}

TEST(Packing, ATextOfWhichNothingIsLearnedIsAnErrorThatNamesIt) {
  try {
    packing(store({{~1, ~2, ~3}, {~4}}, ~9), 4);
    FAIL() << "took a text to be read only";
  } catch (const Error& error) {
    EXPECT_THAT(error.what(), testing::HasSubstr("text: none of its 6 tokens is learned"));
  }
}

TEST(Packing, OrderFollowsFromSeedAndPositionAlone) {
  const auto order = [](std::uint64_t seed, int first) {
    Packing text = packing(counting(40, 3), 4, -1, seed);
    std::vector<Token> result;
    for (int i = first; i < first + 40; ++i) result.push_back(text.at(i).inputs.front());
    return result;
  };
  EXPECT_EQ(order(1, 40), order(1, 40));
  EXPECT_NE(order(1, 0), order(1, 40));
  EXPECT_NE(order(1, 0), order(2, 0));
}

TEST(Packing, SharesAreExactAndSourcesAreReadInTheirOwnEpochs) {
  const auto mixed = [] {
    return Packing({{.store = counting(10, 3), .weight = 3}, {.store = counting(4, 3, 100), .weight = 1}},
                   {.context = 4, .vocab = 1000, .seed = 3});
  };
  Packing text = mixed();
  std::map<Token, int> firsts;
  int second = 0;
  for (std::int64_t i = 0; i < 80; ++i) {
    const Token first = text.at(i).inputs.front();
    ++firsts[first];
    second += first >= 100 ? 1 : 0;
    EXPECT_NEAR(second, static_cast<double>(i + 1) / 4, 1) << i;
  }
  EXPECT_EQ(second, 20);
  for (const auto& [first, count] : firsts) EXPECT_EQ(count, first >= 100 ? 5 : 6) << first;

  Packing again = mixed();  // from anywhere, forwards or back
  for (const std::int64_t position : {50, 7, 8, 79}) {
    EXPECT_EQ(again.at(position).inputs, text.at(position).inputs) << position;
  }
}

TEST(Packing, ATokenThatTheVocabularyLacksIsAnErrorThatNamesItsDocument) {
  Packing text = packing(store({{1, 2}, {3, 1000, 4}}, 9), 8);
  try {
    text.at(0);
    FAIL() << "took token 1000 of 1000";
  } catch (const Error& error) {
    EXPECT_THAT(error.what(), testing::HasSubstr("text line 2: has token 1000"));
  }
}

TEST(Packing, NamesTheDocumentsOfASequence) {
  Packing text = packing(store({{1, 2}, {3, 4}, {5, 6}}, 9), 9);
  EXPECT_EQ(text.describe(0), "text line 1 to text line 3");
}

TEST(Packing, AnEmptyTextIsAnError) { EXPECT_THROW(packing(store({{}, {}}, 0), 4), Error); }

TEST(Permutation, IsOneForEveryCountAndKey) {
  for (const std::int64_t count : {1, 2, 3, 4, 5, 16, 17, 100, 1023, 4097}) {
    for (const std::uint64_t key : {0U, 1U, 77U}) {
      std::set<std::int64_t> values;
      for (std::int64_t i = 0; i < count; ++i) values.insert(permuted(i, count, key));
      EXPECT_EQ(std::ssize(values), count);
      EXPECT_EQ(*values.begin(), 0);
      EXPECT_EQ(*values.rbegin(), count - 1);
    }
  }
}

TEST(Permutation, LeavesNeighboursNowhereNear) {
  // Of a random permutation of n, the mean distance of what neighbours become is n / 3.
  constexpr std::int64_t count = 10'000;
  double distance = 0;
  for (std::int64_t i = 1; i < count; ++i) {
    distance += std::abs(static_cast<double>(permuted(i, count, 5) - permuted(i - 1, count, 5)));
  }
  EXPECT_NEAR(distance / count / count, 1.0 / 3, 0.02);
}

}  // namespace
}  // namespace fathom
