// How products go through rows: as many at a time as registers hold sums for.
#pragma once

#include <cstdint>
#include <type_traits>

#include "kernels/product.h"

namespace fathom::products {

/// Calls block(R, row), R a constant, for blocks of R rows, at most Most and as near to each other as can be:
/// of a row by itself each sum waits for the one before.
template <int Most, typename Block>
void in_row_blocks(Range rows, const Block& block) {
  const auto sized = [&]<int R>(auto&& self, std::int64_t size, std::int64_t row,
                                std::integral_constant<int, R> constant) -> void {
    if (R == size) return block(constant, row);
    if constexpr (R > 1) self(self, size, row, std::integral_constant<int, R - 1>());
  };
  for (std::int64_t row = rows.first; row < rows.last;) {
    const std::int64_t left = rows.last - row, blocks = (left + Most - 1) / Most;
    const std::int64_t size = (left + blocks - 1) / blocks;
    sized(sized, size, row, std::integral_constant<int, Most>());
    row += size;
  }
}

}  // namespace fathom::products
