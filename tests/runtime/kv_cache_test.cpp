#include "runtime/kv_cache.h"

#include <gtest/gtest.h>

#include <algorithm>

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

}  // namespace
}  // namespace fathom
