// Which part of a product each thread computes.
#pragma once

#include <algorithm>
#include <cstdint>

#include "kernels/packed_matrix.h"
#include "kernels/product.h"

namespace fathom {

/// A grid: some rows of it share the activations, some columns the weights.
///
/// A thread that computes all outputs for its rows works on rows that it has in its cache from the operation
/// before, and brings them into form itself; but it reads all weights, and 16 threads with 32 rows each of a
/// prompt of 512 read them 16 times, for 64 operations a weight. A thread with all rows for its outputs reads
/// each weight alone, always the same ones, so that it finds those of a layer that is visited again soon in
/// its own cache; but it reads all rows. In between both are small. The grid with the least time is taken,
/// of several the one with most shares of rows: that of the longest share's operations, or of the bytes that
/// it reads meanwhile, whichever is more.
class Shares {
 public:
  /// `row_bytes`: of a row as the kernel reads it.
  Shares(const PackedMatrix& weight, std::int64_t rows, std::int64_t row_bytes, const ProductKernel& kernel,
         int threads)
      : rows_(rows),
        granule_(std::max<std::int64_t>(kernel.row_granule, 32)),
        // A gate and its up projection stay together, and so do two panels for tiles.
        unit_(weight.gated || kernel.row_granule > 1 ? 2 : 1),
        panels_(weight.panels()),
        operations_a_byte_(kernel.row_granule > 1 ? 128 : 16),
        threads_(threads) {
    double least = time(weight, row_bytes, 1);
    for (int shares = 2; shares <= threads && shares <= blocks(); ++shares) {
      if (threads % shares != 0) continue;
      if (const double own = time(weight, row_bytes, shares); own <= least) {
        least = own;
        row_shares_ = shares;
      }
    }
  }

  Range rows(int thread) const { return {row(thread % row_shares_), row(thread % row_shares_ + 1)}; }
  /// Neighbouring threads have the same ones: they are on one node of memory, where there are several.
  Range panels(int thread) const { return {panel(thread / row_shares_), panel(thread / row_shares_ + 1)}; }
  /// Whether each thread has its rows for itself.
  bool by_rows() const { return row_shares_ == threads_; }

 private:
  std::int64_t blocks() const { return (rows_ + granule_ - 1) / granule_; }
  std::int64_t units() const { return (panels_ + unit_ - 1) / unit_; }
  std::int64_t columns() const { return threads_ / row_shares_; }
  std::int64_t row(int share) const { return std::min(rows_, blocks() * share / row_shares_ * granule_); }
  std::int64_t panel(int share) const { return std::min(panels_, units() * share / columns() * unit_); }

  // The longest share's, in operations.
  double time(const PackedMatrix& weight, std::int64_t row_bytes, std::int64_t row_shares) const {
    const std::int64_t columns = threads_ / row_shares;
    const auto up = [](std::int64_t count, std::int64_t shares) { return (count + shares - 1) / shares; };
    const auto rows = static_cast<double>(std::min(rows_, up(blocks(), row_shares) * granule_));
    const auto panels = static_cast<double>(std::min(panels_, up(units(), columns) * unit_));
    // Rows that a thread has for itself are in its cache.
    const double read = panels * static_cast<double>(weight.panel_bytes()) +
                        (row_shares == threads_ ? 0 : rows * static_cast<double>(row_bytes));
    return std::max(2 * rows * panels * panel_outputs * static_cast<double>(weight.in),
                    operations_a_byte_ * read);
  }

  std::int64_t rows_, granule_, unit_, panels_;
  // While a byte comes from beyond the L2 cache: of 10 to 25 GB/s and, a core, 2,000 GOP/s by tiles or 130 to
  // 400 by vectors.
  double operations_a_byte_;
  int threads_, row_shares_ = 1;
};

}  // namespace fathom
