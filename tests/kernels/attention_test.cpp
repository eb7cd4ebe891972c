// Attention by vectors and by tiles, against the reference and against itself in other company.
#include <fmt/format.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <vector>

#include "base/random.h"
#include "base/threads.h"
#include "kernels/aligned.h"
#include "kernels/backend.h"
#include "kernels/bf16.h"
#include "kernels/isa.h"
#include "kernels/quantise.h"

namespace fathom {
namespace {

// Values that bf16 holds, so that what is rounded within the kernel is the weights alone.
std::vector<float> bf16_normals(Random& random, std::int64_t count, double scale) {
  std::vector<float> values(static_cast<std::size_t>(count));
  for (float& v : values) v = from_bf16(to_bf16(static_cast<float>(random.normal() * scale)));
  return values;
}

struct Heads {
  Compute type;
  std::int64_t group, kv_heads, head_dim;
  std::int64_t window = 0;
  float softcap = 0;

  std::int64_t heads() const { return group * kv_heads; }
  std::int64_t width() const { return heads() * head_dim; }
  AttentionShape shape() const {
    return {.heads = heads(),
            .query_stride = width() + 3,
            .cache = {.kv_heads = kv_heads, .head_dim = head_dim, .type = type},
            .window = window,
            .scale = 1 / std::sqrt(static_cast<float>(head_dim)),
            .softcap = softcap};
  }
};

// A sequence whose keys and values are all stored, and a query for each position.
class Sequence {
 public:
  Sequence(const Heads& heads, std::int64_t length, std::uint64_t seed) : shape_(heads.shape()) {
    Random random(seed);
    for (std::int64_t p = 0; p < length; p += page_positions) {
      memory_.emplace_back(static_cast<std::size_t>(shape_.cache.page_bytes()));
      pages_.push_back(memory_.back().as<std::byte>());
    }
    const std::int64_t stride = heads.kv_heads * heads.head_dim;
    const auto keys = bf16_normals(random, length * stride, 2),
               values = bf16_normals(random, length * stride, 1);
    const AttentionSpan all = {.count = length, .pages = pages_.data()};
    make_reference_backend()->store_kv(shape_.cache, {&all, 1}, keys.data(), values.data(), stride);
    queries_ = bf16_normals(random, length * shape_.query_stride, 2);
    if (heads.type == Compute::int8) round_queries(heads);
  }

  /// The queries of positions [first, first + count) as rows of a batch.
  AttentionSpan join(std::int64_t first, std::int64_t count, std::vector<float>& batch) const {
    const auto row = static_cast<std::int64_t>(batch.size()) / shape_.query_stride;
    const auto begin = queries_.begin() + first * shape_.query_stride;
    batch.insert(batch.end(), begin, begin + count * shape_.query_stride);
    return {.row = row, .count = count, .first = first, .pages = pages_.data()};
  }

 private:
  // To what 8 bits with a scale a head hold, so that what is rounded within the kernel is the weights alone.
  void round_queries(const Heads& heads) {
    const auto dim = static_cast<std::size_t>(heads.head_dim),
               stride = static_cast<std::size_t>(shape_.query_stride);
    std::vector<std::int8_t> q(dim);
    for (std::size_t row = 0; row < queries_.size(); row += stride)
      for (std::size_t head = 0; head < static_cast<std::size_t>(heads.heads()); ++head) {
        const auto query = std::span(queries_).subspan(row + head * dim, dim);
        const float scale = quantise_activations(query, q);
        for (std::size_t d = 0; d < dim; ++d) query[d] = scale * static_cast<float>(q[d]);
      }
  }

  AttentionShape shape_;
  std::vector<AlignedBuffer> memory_;
  std::vector<std::byte*> pages_;
  std::vector<float> queries_;
};

std::vector<float> attend(const Heads& heads, const std::vector<AttentionSpan>& spans,
                          const std::vector<float>& queries) {
  const AttentionShape shape = heads.shape();
  std::vector<float> out(queries.size() / static_cast<std::size_t>(shape.query_stride) *
                         static_cast<std::size_t>(heads.width()));
  make_cpu_backend()->attention(shape, spans, queries.data(), {},
                                float_rows(out.data(), shape.heads * shape.cache.head_dim));
  return out;
}

class AttentionTest : public testing::TestWithParam<Compute> {};

INSTANTIATE_TEST_SUITE_P(Types, AttentionTest, testing::Values(Compute::f32, Compute::bf16, Compute::int8),
                         [](const auto& type) { return std::string(compute_name(type.param)); });

// Tiles in bf16: a weight is off by at most 2^-9 of itself, so the sum of values by as much of the largest
// value (here about 4, and so is the largest result, of the first position); tenfold less in the mean of many
// keys. int8: a weight is off by up to 2^-9 of the largest in its page, and the sum of 64 such by some
// sqrt(64) times that.
double tolerance(Compute type) {
  if (!native_tiles() || type == Compute::f32) return 2e-5;  // of exponentials and sums in other orders
  return type == Compute::bf16 ? 0x1p-8 : 0x1p-6;
}

TEST_P(AttentionTest, AgreesWithReference) {
  const std::vector<std::pair<std::int64_t, std::int64_t>> parts = {
      {0, 1}, {0, 77}, {63, 1}, {64, 1}, {127, 66}, {330, 1}, {511, 1}, {512, 1}, {500, 130}, {1100, 2}};
  const std::vector<std::int64_t> groups = {3, 1, 8, 2, 7, 4, 20},
                                  head_dims = {64, 16, 48, 80, 7, 96, 128, 256};
  const std::vector<std::int64_t> windows = {0, 17, 0, 600, 64, 1, 200};
  const std::vector<float> softcaps = {0, 20, 0, 50, 0};
  for (std::uint64_t seed = 0; seed < 16; ++seed) {
    const std::int64_t group = groups[seed % 7], head_dim = head_dims[seed % 8], window = windows[seed % 7];
    const float softcap = softcaps[seed % 5];
    const Heads heads = {.type = GetParam(),
                         .group = group,
                         .kv_heads = 1 + static_cast<std::int64_t>(seed % 3),
                         .head_dim = head_dim,
                         .window = window,
                         .softcap = softcap};
    std::vector<Sequence> sequences;
    std::vector<AttentionSpan> spans;
    std::vector<float> queries;
    for (std::size_t i = seed % 2; i < parts.size(); i += 2) {  // every second
      sequences.emplace_back(heads, parts[i].first + parts[i].second, 100 * seed + i);
      spans.push_back(sequences.back().join(parts[i].first, parts[i].second, queries));
    }
    const auto got = attend(heads, spans, queries);
    std::vector<float> expected(got.size());
    make_reference_backend()->attention(
        heads.shape(), spans, queries.data(), {},
        float_rows(expected.data(), heads.shape().heads * heads.shape().cache.head_dim));
    double largest = 1, difference = 0, squares = 0;
    for (std::size_t i = 0; i < got.size(); ++i) {
      largest = std::max(largest, std::abs(double{expected[i]}));
      const double d = std::abs(double{got[i]} - expected[i]);
      if (!(d <= difference)) difference = d;  // keeps a NaN
      squares += d * d;
    }
    const auto what = fmt::format("{} x {} heads of {}, window {}, cap {}", heads.kv_heads, group, head_dim,
                                  window, softcap);
    EXPECT_LE(difference, tolerance(heads.type) * largest) << what;
    EXPECT_LE(std::sqrt(squares / static_cast<double>(got.size())), tolerance(heads.type) / 4) << what;
  }
}

// However a sequence is cut into spans, as chunked prefill and decode do, in whatever company and by however
// many threads: the same bits.
TEST_P(AttentionTest, RowsDoNotDependOnTheirCompany) {
  const int threads = thread_count();
  const std::vector<Heads> cases = {
      {.type = GetParam(), .group = 3, .kv_heads = 3, .head_dim = 64},
      {.type = GetParam(), .group = 4, .kv_heads = 1, .head_dim = 80, .window = 90, .softcap = 30},
      {.type = GetParam(), .group = 7, .kv_heads = 2, .head_dim = 32, .window = 700}};
  for (const Heads& heads : cases) {
    const std::int64_t length = 1100;
    const Sequence sequence(heads, length, 5), other(heads, 700, 6);
    std::vector<float> queries;
    set_threads(1);
    const std::vector<AttentionSpan> whole = {sequence.join(0, length, queries)};
    const auto expected = attend(heads, whole, queries);
    for (const std::int64_t step : {1, 5, 17, 300}) {
      set_threads(3);
      queries.clear();
      std::vector<AttentionSpan> spans = {other.join(step, 70, queries)};
      for (std::int64_t first = 0; first < length; first += step)
        spans.push_back(sequence.join(first, std::min(step, length - first), queries));
      const auto got = attend(heads, spans, queries);
      const auto begin = got.begin() + 70 * heads.width();
      EXPECT_TRUE(std::equal(begin, got.end(), expected.begin(), expected.end()))
          << heads.group << " heads of " << heads.head_dim << " by " << step;
    }
  }
  set_threads(threads);
}

TEST_P(AttentionTest, NotANumberStaysInItsRow) {
  const Heads heads = {.type = GetParam(), .group = 3, .kv_heads = 1, .head_dim = 64};
  const Sequence sequence(heads, 150, 7);
  std::vector<float> queries;
  const std::vector<AttentionSpan> spans = {sequence.join(0, 150, queries)};
  const auto clean = attend(heads, spans, queries);
  queries[static_cast<std::size_t>(40 * heads.shape().query_stride + 64)] =
      std::numeric_limits<float>::quiet_NaN();
  const auto got = attend(heads, spans, queries);
  const std::size_t bad =
      static_cast<std::size_t>(40 * heads.width() + 64);  // the second head of position 40
  for (std::size_t i = 0; i < got.size(); ++i)
    if (i >= bad && i < bad + 64)
      EXPECT_TRUE(std::isnan(got[i])) << i;
    else
      EXPECT_EQ(got[i], clean[i]) << i;
}

}  // namespace
}  // namespace fathom
