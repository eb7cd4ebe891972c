// How products go through rows: as many at a time as registers hold sums for.
#pragma once

#include <cstdint>
#include <type_traits>

#include "kernels/product.h"

namespace fathom::products {

/// Calls block(R, row), R a constant, for blocks of R = Most rows, and for the rows that are left as one
/// block.
template <int Most, typename Block>
void in_row_blocks(Range rows, const Block& block) {
  std::int64_t row = rows.first;
  for (; row + Most <= rows.last; row += Most) block(std::integral_constant<int, Most>(), row);
  if constexpr (Most > 1) in_row_blocks<Most - 1>({row, rows.last}, block);
}

}  // namespace fathom::products
