#include <gtest/gtest.h>

#include <algorithm>
#include <vector>

#include "base/random.h"
#include "kernels/aligned.h"
#include "kernels/backend.h"

namespace fathom {
namespace {

// What is copied to a position is what would have been stored there, and nothing else changes.
TEST(CopyKv, APositionIsThereAsIfItHadBeenStored) {
  Random random(5);
  for (const Compute type : {Compute::f32, Compute::bf16, Compute::int8})
    for (const std::int64_t head_dim : {6, 64, 80}) {
      const KvLayout layout = {.kv_heads = 3, .head_dim = head_dim, .type = type};
      const std::int64_t width = layout.kv_heads * head_dim;
      std::vector<float> keys(static_cast<std::size_t>(width)), values(keys);
      for (float& k : keys) k = static_cast<float>(random.normal());
      for (float& v : values) v = static_cast<float>(random.normal());
      const auto stored_at = [&](std::int64_t position) {
        std::vector<std::byte> page(static_cast<std::size_t>(layout.page_bytes()));
        std::byte* pages[] = {page.data()};
        const AttentionSpan span = {.count = 1, .first = position, .pages = pages};
        make_reference_backend()->store_kv(layout, {&span, 1}, keys.data(), values.data(), width);
        return page;
      };
      for (const auto& [from, to] : std::vector<std::pair<int, int>>{{0, 63}, {5, 5}, {62, 1}, {31, 32}}) {
        std::vector<std::byte> page(static_cast<std::size_t>(layout.page_bytes()));
        copy_kv(layout, stored_at(from).data(), from, page.data(), to);
        EXPECT_EQ(page, stored_at(to)) << compute_name(type) << " " << from << " to " << to;
      }
    }
}

}  // namespace
}  // namespace fathom
