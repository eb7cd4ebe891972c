#include "kernels/shares.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <vector>

namespace fathom {
namespace {

PackedMatrix matrix(std::int64_t out, std::int64_t in, bool gated = false) {
  PackedMatrix weight;
  weight.type = Compute::int8;
  weight.out = out;
  weight.in = weight.padded_in = in;
  weight.gated = gated;
  return weight;
}

constexpr ProductKernel vectors = {RowForm::int8, 1, nullptr}, tiles = {RowForm::int8, 32, nullptr};

// Of one thread, as a part of all rows times all panels.
double part(const Shares& shares, int thread, std::int64_t rows, std::int64_t panels) {
  const Range r = shares.rows(thread), p = shares.panels(thread);
  return static_cast<double>((r.last - r.first) * (p.last - p.first)) / static_cast<double>(rows * panels);
}

TEST(Shares, CoverEachRowAndPanelOnce) {
  for (const ProductKernel& kernel : {vectors, tiles})
    for (const bool gated : {false, true})
      for (const int threads : {1, 2, 3, 5, 8, 12, 16, 64})
        for (const std::int64_t rows : {1, 7, 32, 33, 100, 513, 2048})
          for (const std::int64_t out : {32, 96, 576, 960}) {
            const PackedMatrix weight = matrix(out, 64, gated);
            const Shares shares(weight, rows, 64, kernel, threads);
            std::vector<int> seen(static_cast<std::size_t>(rows * weight.panels()));
            for (int thread = 0; thread < threads; ++thread) {
              const Range r = shares.rows(thread), p = shares.panels(thread);
              EXPECT_TRUE(!gated || p.first % 2 == 0);
              for (std::int64_t row = r.first; row < r.last; ++row)
                for (std::int64_t panel = p.first; panel < p.last; ++panel)
                  ++seen[static_cast<std::size_t>(row * weight.panels() + panel)];
            }
            EXPECT_TRUE(std::ranges::all_of(seen, [](int times) { return times == 1; }))
                << rows << " rows, " << out << " outputs, " << threads << " threads";
          }
}

TEST(Shares, OneRowIsSharedOutByOutputsAndEvenly) {
  const PackedMatrix weight = matrix(576, 1536);
  const Shares shares(weight, 1, 1536, vectors, 16);
  double most = 0;
  for (int thread = 0; thread < 16; ++thread) most = std::max(most, part(shares, thread, 1, 36));
  EXPECT_DOUBLE_EQ(most, 3.0 / 36);  // of 2.25 panels in the mean
}

// What 16 threads with tiles read of a prompt of 512: by rows alone 16 times the weights.
TEST(Shares, ManyThreadsDoNotEachReadAllWeights) {
  const PackedMatrix weight = matrix(1536, 576);
  const Shares shares(weight, 512, 576, tiles, 16);
  double read = 0, most = 0;
  for (int thread = 0; thread < 16; ++thread) {
    const Range p = shares.panels(thread), r = shares.rows(thread);
    read += static_cast<double>((p.last - p.first) * weight.panel_bytes() + (r.last - r.first) * 576);
    most = std::max(most, part(shares, thread, 512, weight.panels()));
  }
  EXPECT_LT(read, 0.4 * 16 * static_cast<double>(weight.panels() * weight.panel_bytes()));
  EXPECT_DOUBLE_EQ(most, 1.0 / 16);
}

TEST(Shares, TwoThreadsKeepTheirRowsOfAPrompt) {
  for (const ProductKernel& kernel : {vectors, tiles}) {
    const Shares shares(matrix(1536, 576), 512, 576, kernel, 2);
    EXPECT_TRUE(shares.by_rows());
    EXPECT_EQ(shares.rows(0).last, 256);
  }
}

}  // namespace
}  // namespace fathom
