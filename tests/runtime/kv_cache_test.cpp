#include "runtime/kv_cache.h"

#include <gtest/gtest.h>

#include <algorithm>

#include "base/error.h"

namespace fathom {
namespace {

class KvCacheTest : public testing::Test {
 protected:
  const KvLayout layout_ = {.kv_heads = 2, .head_dim = 16, .type = Compute::bf16};
  static constexpr std::int64_t visit_ = 0;
  KvCache cache_ = KvCache(layout_, {0});

  void grow(int sequence, std::int64_t count) {
    const std::int64_t length = cache_.length(sequence);
    cache_.grow(sequence, count, length);
    cache_.take(sequence, length + count);
  }
  std::span<std::byte> page(int sequence, std::int64_t index, std::int64_t first, std::int64_t count) {
    return {cache_.pages_to_write(sequence, visit_, first, count)[index],
            static_cast<std::size_t>(layout_.page_bytes())};
  }
  static bool is_all(std::span<const std::byte> page, std::byte value) {
    return std::ranges::all_of(page, [=](std::byte b) { return b == value; });
  }
};

TEST_F(KvCacheTest, WhatAnEarlierSequenceLeftBehindTheLastPositionIsCleared) {
  constexpr std::byte left = std::byte{0xff};  // NaN in every type
  const int earlier = cache_.open();
  grow(earlier, 2 * page_positions);
  for (const std::int64_t index : {0, 1})
    std::ranges::fill(page(earlier, index, 0, 2 * page_positions), left);
  cache_.close(earlier);

  const int later = cache_.open();
  grow(later, page_positions + 1);
  EXPECT_TRUE(is_all(page(later, 0, 0, page_positions), left))
      << "a page that is filled is not cleared before";
  EXPECT_TRUE(is_all(page(later, 1, 0, page_positions), left)) << "nor one that nobody writes yet";
  EXPECT_TRUE(is_all(page(later, 1, page_positions, 1), std::byte{0}));
}

TEST_F(KvCacheTest, APageThatWasBegunBeforeIsLeftAsItIs) {
  const int sequence = cache_.open();
  grow(sequence, 10);
  std::ranges::fill(page(sequence, 0, 0, 10), std::byte{1});
  grow(sequence, 1);
  EXPECT_TRUE(is_all(page(sequence, 0, 10, 1), std::byte{1}));
}

TEST_F(KvCacheTest, AForkSharesPagesUntilOneOfTheTwoWrites) {
  const int first = cache_.open();
  grow(first, page_positions + 10);
  std::ranges::fill(page(first, 0, 0, page_positions), std::byte{1});
  std::ranges::fill(page(first, 1, page_positions, 10), std::byte{2});
  const int second = cache_.fork(first), third = cache_.fork(first);
  EXPECT_EQ(cache_.length(second), page_positions + 10);
  EXPECT_EQ(cache_.pages_in_use(), 2);

  grow(second, 1);
  EXPECT_EQ(cache_.pages_in_use(), 3);
  std::ranges::fill(page(second, 1, page_positions + 10, 1), std::byte{3});
  EXPECT_TRUE(is_all(page(first, 1, page_positions + 10, 1), std::byte{2}));
  cache_.truncate(third, 5);
  grow(third, 1);
  EXPECT_EQ(cache_.pages_in_use(), 4);
  std::ranges::fill(page(third, 0, 5, 1), std::byte{4});
  EXPECT_TRUE(is_all(page(second, 0, page_positions + 10, 1), std::byte{1}));

  cache_.close(first);
  EXPECT_TRUE(is_all(page(second, 0, page_positions + 10, 1), std::byte{1}));
  EXPECT_EQ(cache_.pages_in_use(), 3);
  grow(second, 1);  // nobody else's any more
  EXPECT_EQ(cache_.pages_in_use(), 3);
  cache_.close(second);
  cache_.close(third);
  EXPECT_EQ(cache_.pages_in_use(), 0);
}

// What follows is written where the last entry at each visit lies, which is further ahead for what was
// skipped.
TEST_F(KvCacheTest, AForkOfASequenceWithSkippedPositionsOwnsWhatItWrites) {
  const int first = cache_.open();
  grow(first, page_positions);
  cache_.skip(first, page_positions - 1, visit_);
  const int second = cache_.fork(first);
  grow(second, 1);
  EXPECT_EQ(cache_.entry(second, visit_, page_positions), page_positions - 1);
  std::ranges::fill(page(first, 0, 5, 1), std::byte{1});
  std::ranges::fill(page(second, 0, page_positions - 1, 1), std::byte{2});
  EXPECT_TRUE(is_all(page(first, 0, 5, 1), std::byte{1}));
}

TEST_F(KvCacheTest, WhatIsPromisedIsNotTakenYetButNobodyElseGetsIt) {
  cache_ = KvCache(layout_, {0, 1}, 6 * layout_.page_bytes());
  EXPECT_EQ(cache_.most_positions(), 3 * page_positions);
  const int first = cache_.open(), second = cache_.open();
  cache_.grow(first, page_positions + 1, 0);
  EXPECT_EQ(cache_.pages_in_use(), 0);
  cache_.take(first, 1);
  EXPECT_EQ(cache_.pages_in_use(), 2);
  EXPECT_TRUE(cache_.can_grow(second, page_positions, 0));
  EXPECT_FALSE(cache_.can_grow(second, page_positions + 1, 0));
  EXPECT_THROW(cache_.grow(second, page_positions + 1, 0), Error);
  EXPECT_EQ(cache_.length(second), 0);
  cache_.truncate(first, 1);
  EXPECT_TRUE(cache_.can_grow(second, page_positions + 1, 0));
  EXPECT_TRUE(cache_.can_grow(first, 2 * page_positions, 1));
  grow(second, 2 * page_positions);
  const int third = cache_.fork(second);
  EXPECT_FALSE(cache_.can_grow(third, 1, 2 * page_positions));
  cache_.truncate(third, page_positions + 1);
  EXPECT_FALSE(cache_.can_grow(third, 1, page_positions + 1)) << "a page of its own at both visits";
  EXPECT_THROW(KvCache(layout_, {0, 1}, 2 * layout_.page_bytes() - 1), Error);
}

}  // namespace
}  // namespace fathom
