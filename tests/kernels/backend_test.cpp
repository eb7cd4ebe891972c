// The CPU backend against the plain loops of the reference, over odd shapes, in both types.
#include "kernels/backend.h"

#include <fmt/format.h>
#include <gtest/gtest.h>
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <limits>
#include <optional>
#include <string>
#include <vector>

#include "base/random.h"
#include "base/threads.h"
#include "kernels/aligned.h"
#include "kernels/bf16.h"
#include "kernels/isa.h"
#include "kernels/quantise.h"
#include "kernels/row_buffer.h"

namespace fathom {
namespace {

const std::vector<std::int64_t> row_counts = {1, 2, 3, 4, 5, 6, 7, 8, 9, 17, 64, 65, 130, 600};
const std::vector<std::int64_t> widths = {1, 7, 16, 33, 64, 97, 576};

std::vector<float> normals(Random& random, std::int64_t count, double scale = 1) {
  std::vector<float> values(static_cast<std::size_t>(count));
  for (float& v : values) v = static_cast<float>(random.normal() * scale);
  return values;
}

// EXPECTs equality up to `tolerance`, relative to the largest expected value (at least 1).
void expect_close(const std::vector<float>& got, const std::vector<float>& expected, double tolerance,
                  const std::string& what) {
  ASSERT_EQ(got.size(), expected.size()) << what;
  double largest = 1, difference = 0;
  for (std::size_t i = 0; i < got.size(); ++i) {
    largest = std::max(largest, std::abs(double{expected[i]}));
    const double d = std::abs(double{got[i]} - expected[i]);
    if (!(d <= difference)) difference = d;  // keeps a NaN
  }
  EXPECT_LE(difference, tolerance * largest) << what;
}

class BackendTest : public testing::TestWithParam<Compute> {
 protected:
  // bf16 products of the same rounded values differ only in the order of float32 sums, as float32's do.
  static constexpr double tolerance = 2e-6;
  std::unique_ptr<Backend> cpu_ = make_cpu_backend();
  std::unique_ptr<Backend> reference_ = make_reference_backend();
  Random random_{7};
};

std::string type_name(const testing::TestParamInfo<Compute>& test) { return compute_name(test.param); }

INSTANTIATE_TEST_SUITE_P(Types, BackendTest,
                         testing::Values(Compute::f32, Compute::bf16, Compute::int8, Compute::int4,
                                         Compute::int8_groups, Compute::int6_groups, Compute::int4_groups),
                         type_name);

// What depends on the cache's type.
class CacheTest : public BackendTest {};
INSTANTIATE_TEST_SUITE_P(Types, CacheTest, testing::Values(Compute::f32, Compute::bf16, Compute::int8),
                         type_name);

TEST_P(BackendTest, LinearOfEveryShape) {
  for (const std::int64_t in : {1, 7, 33, 97, 576}) {
    for (const std::int64_t out : {1, 64, 130, 300}) {
      const Tensor weight = make_tensor(DType::f32, {out, in}, normals(random_, out * in, 1 / std::sqrt(in)));
      const Tensor bias = make_tensor(DType::f32, {out}, normals(random_, out));
      for (const bool with_bias : {false, true}) {
        const std::vector<LinearPart> parts = {{&weight, with_bias ? &bias : nullptr}};
        const auto fast = cpu_->pack(parts, GetParam());
        const auto plain = reference_->pack(parts, GetParam());
        EXPECT_EQ(fast->out, out);
        EXPECT_EQ(fast->in, in);
        for (const std::int64_t rows : {1, 2, 3, 5, 7, 17, 33, 70}) {
          const auto x = normals(random_, rows * in);
          for (const bool accumulate : {false, true}) {
            auto expected = normals(random_, rows * out);
            auto got = expected;
            reference_->linear(*plain, rows, float_rows(x.data(), in), expected.data(), out, accumulate);
            cpu_->linear(*fast, rows, float_rows(x.data(), in), got.data(), out, accumulate);
            expect_close(got, expected, tolerance * std::sqrt(in + 8),
                         fmt::format("rows {} in {} out {} bias {} accumulate {}", rows, in, out, with_bias,
                                     accumulate));
          }
        }
      }
    }
  }
}

TEST_P(BackendTest, PartsLieOneAfterAnotherAndRowsApart) {
  const std::int64_t in = 70, rows = 5, stride = 61;
  std::vector<Tensor> weights, biases;
  for (const std::int64_t out : {20, 3, 33}) {
    weights.push_back(make_tensor(DType::f32, {out, in}, normals(random_, out * in, 0.1)));
    biases.push_back(make_tensor(DType::f32, {out}, normals(random_, out)));
  }
  const std::vector<LinearPart> parts = {
      {&weights[0], &biases[0]}, {&weights[1], nullptr}, {&weights[2], &biases[2]}};
  const auto x = normals(random_, rows * in);
  auto expected = normals(random_, rows * stride);
  auto got = expected;
  reference_->linear(*reference_->pack(parts, GetParam()), rows, float_rows(x.data(), in), expected.data(),
                     stride, false);
  cpu_->linear(*cpu_->pack(parts, GetParam()), rows, float_rows(x.data(), in), got.data(), stride, false);
  expect_close(got, expected, 2e-5, "three parts; what lies between rows is left alone");
}

TEST_P(BackendTest, GatedLinearOfEveryActivation) {
  const std::int64_t in = 70;
  for (const GateActivation activation :
       {GateActivation::silu, GateActivation::gelu, GateActivation::gelu_tanh, GateActivation::relu}) {
    for (const std::int64_t half : {1, 16, 97}) {
      const Tensor gate = make_tensor(DType::f32, {half, in}, normals(random_, half * in, 0.3));
      const Tensor up = make_tensor(DType::f32, {half, in}, normals(random_, half * in, 0.3));
      auto bias = normals(random_, half);
      bias[0] = -200;  // e^200 is no float32
      const Tensor gate_bias = make_tensor(DType::f32, {half}, bias);
      const auto fast = cpu_->pack_gated({&gate, &gate_bias}, {&up}, GetParam());
      const auto plain = reference_->pack_gated({&gate, &gate_bias}, {&up}, GetParam());
      for (const std::int64_t rows : {1, 2, 5, 33, 70}) {
        const auto x = normals(random_, rows * in), addend = normals(random_, rows * 2 * half);
        for (const float* added : {static_cast<const float*>(nullptr), addend.data()}) {
          std::vector<float> expected(static_cast<std::size_t>(rows * half)), got(expected);
          reference_->gated_linear(*plain, rows, float_rows(x.data(), in), activation, added,
                                   float_rows(expected.data(), half));
          cpu_->gated_linear(*fast, rows, float_rows(x.data(), in), activation, added,
                             float_rows(got.data(), half));
          expect_close(got, expected, 3e-5,
                       fmt::format("activation {} half {} rows {} addend {}", static_cast<int>(activation),
                                   half, rows, added != nullptr));
        }
      }
    }
  }
}

// Rows as the runtime keeps them between products.
struct HalfRows {
  HalfRows(std::int64_t number, std::int64_t width) : rows(buffer.rows(number, width)), count(number) {}
  HalfRows(const std::vector<float>& values, std::int64_t width)
      : HalfRows(static_cast<std::int64_t>(values.size()) / width, width) {
    for (std::int64_t r = 0; r < count; ++r)
      std::transform(values.begin() + r * width, values.begin() + (r + 1) * width, rows.row<std::uint16_t>(r),
                     to_bf16);
  }
  std::vector<float> floats() const {
    std::vector<float> values(static_cast<std::size_t>(count * rows.width));
    for (std::int64_t r = 0; r < count; ++r)
      std::transform(rows.row<std::uint16_t>(r), rows.row<std::uint16_t>(r) + rows.width,
                     values.begin() + r * rows.width, from_bf16);
    return values;
  }
  RowBuffer buffer{Compute::bf16};
  Rows rows;
  std::int64_t count;
};

TEST_P(BackendTest, RowsInBf16) {
  constexpr double half_step = 0x1p-8;  // both sides round to bf16, perhaps to neighbours
  const std::int64_t half = 50;
  for (const std::int64_t in : {33, 64, 576}) {
    const Tensor weight = make_tensor(DType::f32, {half, in}, normals(random_, half * in, 1 / std::sqrt(in)));
    const LinearPart part = {&weight, nullptr};
    const auto fast = cpu_->pack({&part, 1}, GetParam()), plain = reference_->pack({&part, 1}, GetParam());
    const auto fast_pair = cpu_->pack_gated(part, part, GetParam());
    const auto plain_pair = reference_->pack_gated(part, part, GetParam());
    for (const std::int64_t rows : {1, 3, 17, 100}) {
      const std::string what = fmt::format("in {} rows {}", in, rows);
      const HalfRows x(normals(random_, rows * in), in);
      std::vector<float> expected(static_cast<std::size_t>(rows * half)), got(expected);
      reference_->linear(*plain, rows, x.rows, expected.data(), half, false);
      cpu_->linear(*fast, rows, x.rows, got.data(), half, false);
      expect_close(got, expected, tolerance * std::sqrt(in + 8), what);
      HalfRows y(rows, half);
      cpu_->linear(*fast, rows, x.rows, y.rows);
      expect_close(y.floats(), expected, half_step, what + " to bf16");
      for (const GateActivation activation :
           {GateActivation::silu, GateActivation::gelu, GateActivation::gelu_tanh, GateActivation::relu}) {
        reference_->gated_linear(*plain_pair, rows, x.rows, activation, nullptr,
                                 float_rows(expected.data(), half));
        cpu_->gated_linear(*fast_pair, rows, x.rows, activation, nullptr, y.rows);
        expect_close(y.floats(), expected, half_step, what + " gated");
      }
      // From any row on, not only where tiles begin.
      if (rows < 3) continue;
      got = expected;
      cpu_->linear(*fast, rows - 2, x.rows.from(2), got.data(), half, false);
      reference_->linear(*plain, rows - 2, x.rows.from(2), expected.data(), half, false);
      expect_close(got, expected, tolerance * std::sqrt(in + 8), what + " from the third on");
    }
  }
}

TEST_P(BackendTest, SummariesAreThoseOfTheOutputs) {
  const std::int64_t in = 70;
  for (const std::int64_t out : {1, 1000, 1024, 3001}) {
    const Tensor weight = make_tensor(DType::f32, {out, in}, normals(random_, out * in, 0.5));
    const std::vector<LinearPart> parts = {{&weight, nullptr}};
    const auto fast = cpu_->pack(parts, GetParam()), plain = reference_->pack(parts, GetParam());
    for (const std::int64_t rows : {1, 3, 130}) {
      const auto x = normals(random_, rows * in);
      std::vector<Pick> picks;
      for (std::int64_t r = 0; r < rows; r += 2)
        for (const std::int64_t output : {out - 1, out / 2}) picks.push_back({r, output});
      for (const float cap : {0.0F, 5.0F}) {
        std::vector<RowSummary> expected(static_cast<std::size_t>(rows)), got(expected);
        std::vector<float> expected_values(picks.size()), values(picks.size());
        reference_->summarise(*plain, rows, float_rows(x.data(), in), cap, picks, expected.data(),
                              expected_values.data());
        cpu_->summarise(*fast, rows, float_rows(x.data(), in), cap, picks, got.data(), values.data());
        expect_close(values, expected_values, 2e-5, "picks");
        for (std::size_t r = 0; r < got.size(); ++r) {
          EXPECT_EQ(got[r].best, expected[r].best) << out;
          EXPECT_NEAR(got[r].largest, expected[r].largest, 1e-4);
          EXPECT_NEAR(got[r].log_sum_exp, expected[r].log_sum_exp, 1e-4);
          if (out > 1) {  // otherwise there is none
            EXPECT_NEAR(got[r].second, expected[r].second, 1e-4);
          }
          EXPECT_NEAR(got[r].entropy, expected[r].entropy, 1e-3);
        }
      }
    }
  }
}

TEST(Backend, ASummaryOfWhatIsNotANumberSaysSo) {
  const Tensor weight = make_tensor(DType::f32, {2000, 8}, std::vector<float>(16'000, 1.0F));
  const auto cpu = make_cpu_backend();
  const auto packed = cpu->pack(std::vector<LinearPart>{{&weight, nullptr}}, Compute::f32);
  std::vector<float> x(24, 1.0F);
  x[9] = std::numeric_limits<float>::quiet_NaN();
  std::vector<RowSummary> rows(3);
  cpu->summarise(*packed, 3, float_rows(x.data(), 8), 0, {}, rows.data(), nullptr);
  EXPECT_TRUE(std::isnan(rows[1].log_sum_exp));
  EXPECT_EQ(rows[2].best, 0);  // the first of equals
  EXPECT_NEAR(rows[2].log_sum_exp, 8 + std::log(2000), 1e-5);
}

// What continuous batching and determinism rest on.
TEST_P(BackendTest, ARowIsTheSameToTheLastBitWhateverIsBesideItAndHoweverManyThreads) {
  const std::int64_t in = 200, out = 150, rows = 200;
  const Tensor weight = make_tensor(DType::f32, {out, in}, normals(random_, out * in, 0.1));
  const auto packed = cpu_->pack(std::vector<LinearPart>{{&weight, nullptr}}, GetParam());
  const auto x = normals(random_, rows * in);
  std::vector<float> together(static_cast<std::size_t>(rows * out));
  cpu_->linear(*packed, rows, float_rows(x.data(), in), together.data(), out, false);
  for (const int threads : {1, 2, 3}) {
    set_threads(threads);
    for (const std::int64_t count : {1, 2, 3, 7, 16, 17, 40, 128}) {
      const std::int64_t first = rows - count;
      std::vector<float> apart(static_cast<std::size_t>(count * out));
      cpu_->linear(*packed, count, float_rows(x.data() + first * in, in), apart.data(), out, false);
      EXPECT_TRUE(std::equal(apart.begin(), apart.end(), together.begin() + first * out))
          << count << " rows on " << threads << " threads";
    }
  }
  set_threads(0);
}

TEST(Backend, RmsNorm) {
  Random random(1);
  for (const std::int64_t width : widths) {
    for (const std::int64_t rows : row_counts) {
      const auto x = normals(random, rows * width, 3), gain = normals(random, width);
      std::vector<float> expected(x), got(x);  // in place in one, apart in the other
      make_reference_backend()->rms_norm(rows, width, x.data(), gain.data(), 1e-5F,
                                         float_rows(expected.data(), width));
      make_cpu_backend()->rms_norm(rows, width, got.data(), gain.data(), 1e-5F,
                                   float_rows(got.data(), width));
      expect_close(got, expected, 3e-6, fmt::format("{} x {}", rows, width));
      HalfRows rounded(rows, width);
      make_cpu_backend()->rms_norm(rows, width, x.data(), gain.data(), 1e-5F, rounded.rows);
      expect_close(rounded.floats(), expected, 0x1p-8, fmt::format("{} x {} to bf16", rows, width));
    }
  }
}

TEST(Backend, Rotary) {
  Random random(2);
  for (const std::int64_t head_dim : {2, 6, 14, 32, 64, 66}) {
    for (const std::int64_t rows : {1, 5, 130}) {
      for (const std::int64_t heads : {1, 3, 8}) {
        const auto table = normals(random, 40 * head_dim);
        std::vector<std::int64_t> positions;
        for (std::int64_t r = 0; r < rows; ++r)
          positions.push_back(static_cast<std::int64_t>(random.below(40)));
        const std::int64_t stride = heads * head_dim + 3;
        auto expected = normals(random, rows * stride);
        auto got = expected;
        make_reference_backend()->rotary(rows, heads, head_dim, positions.data(), table.data(),
                                         expected.data(), stride);
        make_cpu_backend()->rotary(rows, heads, head_dim, positions.data(), table.data(), got.data(), stride);
        expect_close(got, expected, 1e-6, fmt::format("{} x {} x {}", rows, heads, head_dim));
      }
    }
  }
}

TEST(Backend, NormsOfHeads) {
  Random random(3);
  const std::int64_t rows = 9, heads = 3, width = 20, stride = 75;
  const auto gain = normals(random, width);
  auto expected = normals(random, rows * stride);
  auto got = expected;
  make_reference_backend()->norm_heads(rows, heads, width, gain.data(), 1e-6F, expected.data(), stride);
  make_cpu_backend()->norm_heads(rows, heads, width, gain.data(), 1e-6F, got.data(), stride);
  expect_close(got, expected, 3e-6, "heads");
}

TEST(Backend, AddAndSoftcap) {
  Random random(4);
  for (const std::int64_t count : {1, 7, 33, 576, 40000}) {
    const auto x = normals(random, count, 40);
    auto expected = normals(random, count);
    auto got = expected;
    make_reference_backend()->add(count, x.data(), expected.data());
    make_cpu_backend()->add(count, x.data(), got.data());
    EXPECT_EQ(got, expected);
    make_reference_backend()->softcap(count, 30, expected.data());
    make_cpu_backend()->softcap(count, 30, got.data());
    expect_close(got, expected, 1e-6, fmt::format("{}", count));
  }
}

// Floats that end where memory does: who reads or writes a vector that goes on does not come back.
class LastFloats {
 public:
  explicit LastFloats(const std::vector<float>& values) {
    const auto page = static_cast<std::size_t>(::sysconf(_SC_PAGESIZE)),
               bytes = values.size() * sizeof(float);
    const std::size_t kept = (bytes + page - 1) / page * page;
    size_ = kept + page;
    start_ = static_cast<std::byte*>(
        ::mmap(nullptr, size_, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0));
    if (start_ == MAP_FAILED || ::mprotect(start_ + kept, page, PROT_NONE) != 0) std::abort();
    floats_ = reinterpret_cast<float*>(start_ + kept - bytes);
    std::ranges::copy(values, floats_);
  }
  ~LastFloats() { ::munmap(start_, size_); }
  LastFloats(const LastFloats&) = delete;
  LastFloats& operator=(const LastFloats&) = delete;
  float* data() const { return floats_; }

 private:
  std::byte* start_ = nullptr;
  std::size_t size_ = 0;
  float* floats_ = nullptr;
};

// Behind a row lies another thread's. Whoever reads a whole vector there, changes its own part and writes
// it back undoes what that thread writes meanwhile, which a test sees once in thousands of products.
TEST_P(BackendTest, ProductsLeaveAloneWhatLiesBehindTheirRows) {
  const std::int64_t in = 70, half = 57;
  const Tensor weight = make_tensor(DType::f32, {half, in}, normals(random_, half * in, 0.1));
  const LinearPart part = {&weight, nullptr};
  const auto plain = cpu_->pack({&part, 1}, GetParam()), pair = cpu_->pack_gated(part, part, GetParam());
  for (const std::int64_t rows : {1, 4, 9, 40}) {
    const LastFloats x(normals(random_, rows * in)), y(normals(random_, rows * half));
    const LastFloats addend(normals(random_, rows * 2 * half));
    for (const bool accumulate : {false, true})
      cpu_->linear(*plain, rows, float_rows(x.data(), in), y.data(), half, accumulate);
    cpu_->gated_linear(*pair, rows, float_rows(x.data(), in), GateActivation::silu, addend.data(),
                       float_rows(y.data(), half));
  }
}

TEST(Backend, LoopsOverRowsLeaveAloneWhatLiesBehindThem) {
  Random random(6);
  const auto cpu = make_cpu_backend();
  for (const std::int64_t width : widths) {
    const std::int64_t rows = 3;
    const LastFloats x(normals(random, rows * width)), y(normals(random, rows * width));
    const LastFloats gain(normals(random, width));
    cpu->rms_norm(rows, width, x.data(), gain.data(), 1e-5F, float_rows(y.data(), width));
    cpu->norm_heads(1, rows, width, gain.data(), 1e-5F, y.data(), rows * width);
    cpu->add(rows * width, x.data(), y.data());
    cpu->softcap(rows * width, 30, y.data());
  }
}

TEST(Backend, NotANumberStaysInItsRow) {
  const std::int64_t in = 33, out = 65;
  Random random(5);
  const Tensor weight = make_tensor(DType::f32, {out, in}, normals(random, out * in));
  const auto cpu = make_cpu_backend();
  for (const Compute compute : {Compute::f32, Compute::bf16, Compute::int8, Compute::int4}) {
    const auto packed = cpu->pack(std::vector<LinearPart>{{&weight, nullptr}}, compute);
    for (const std::int64_t rows : {2, 20}) {
      auto x = normals(random, rows * in);
      x[0] = std::numeric_limits<float>::quiet_NaN();
      x[1] = std::numeric_limits<float>::denorm_min();
      std::vector<float> y(static_cast<std::size_t>(rows * out));
      cpu->linear(*packed, rows, float_rows(x.data(), in), y.data(), out, false);
      for (std::size_t i = 0; i < y.size(); ++i) EXPECT_EQ(std::isnan(y[i]), i < std::size_t{65}) << i;
    }
  }
}

// A cache for one span, filled through each backend's own store_kv.
struct Cache {
  Cache(const KvLayout& layout, std::int64_t positions) {
    for (std::int64_t p = 0; p < positions; p += page_positions) {
      memory.emplace_back(static_cast<std::size_t>(layout.page_bytes()));
      pages.push_back(memory.back().as<std::byte>());
    }
  }
  std::vector<AlignedBuffer> memory;
  std::vector<std::byte*> pages;
};

struct AttentionCase {
  std::int64_t heads, kv_heads, head_dim, window;
  float softcap;
  std::vector<std::pair<std::int64_t, std::int64_t>> spans;  // first, count
};

// As tiles have it.
void round_query(Compute type, std::span<float> query) {
  if (type == Compute::int8) {
    std::vector<std::int8_t> q(query.size());
    const float scale = quantise_activations(query, q);
    std::ranges::transform(q, query.begin(),
                           [scale](std::int8_t v) { return scale * static_cast<float>(v); });
  } else {
    for (float& v : query) v = from_bf16(to_bf16(v));
  }
}

// The newest keys and values are stored by an operation of its own, or are `fresh`.
std::vector<float> attend(const Backend& backend, const AttentionCase& test, Compute type, bool fresh) {
  const KvLayout layout = {.kv_heads = test.kv_heads, .head_dim = test.head_dim, .type = type};
  // Rows lie further apart than they are wide, as q, k and v do that one product wrote.
  const std::int64_t stride = test.kv_heads * test.head_dim + 5;
  const std::int64_t query_stride = test.heads * test.head_dim + 3;
  const AttentionShape shape = {.heads = test.heads,
                                .query_stride = query_stride,
                                .cache = layout,
                                .window = test.window,
                                .scale = 1 / std::sqrt(static_cast<float>(test.head_dim)),
                                .softcap = test.softcap};
  Random random(11);
  std::vector<Cache> caches;
  std::vector<AttentionSpan> spans;
  std::int64_t rows = 0;
  for (const auto& [first, count] : test.spans) {
    caches.emplace_back(layout, first + count);
    const auto old_keys = normals(random, first * stride, 2), old_values = normals(random, first * stride);
    const AttentionSpan old = {.row = 0, .count = first, .first = 0, .pages = caches.back().pages.data()};
    backend.store_kv(layout, {&old, 1}, old_keys.data(), old_values.data(), stride);
    spans.push_back({.row = rows, .count = count, .first = first, .pages = caches.back().pages.data()});
    rows += count;
  }
  const auto keys = normals(random, rows * stride, 2), values = normals(random, rows * stride);
  auto queries = normals(random, rows * query_stride, 2);
  for (std::int64_t row = 0; row < rows; ++row)
    for (std::int64_t head = 0; head < test.heads; ++head)
      round_query(type, std::span(queries).subspan(
                            static_cast<std::size_t>(row * query_stride + head * test.head_dim),
                            static_cast<std::size_t>(test.head_dim)));
  if (!fresh) backend.store_kv(layout, spans, keys.data(), values.data(), stride);
  const NewKv newest = fresh ? NewKv{keys.data(), values.data(), stride} : NewKv{};
  const std::int64_t width = test.heads * test.head_dim;
  if (type == Compute::bf16) {
    const HalfRows out(rows, width);
    backend.attention(shape, spans, queries.data(), newest, out.rows);
    return out.floats();
  }
  std::vector<float> out(static_cast<std::size_t>(rows * width));
  backend.attention(shape, spans, queries.data(), newest, float_rows(out.data(), width));
  return out;
}

// Tiles round the weights of the softmax: bf16 each by up to 2^-9, and so at most the result too, which is
// then itself rounded, on both sides; int8 by up to 2^-9 of the largest in a page, up to 64 of them, so that
// the result is off by some sqrt(64) of that.
double attention_tolerance(Compute type) {
  if (type == Compute::bf16) return 0x1p-7;
  return type == Compute::int8 && native_tiles() ? 0x1p-6 : 3e-6;
}

TEST_P(CacheTest, Attention) {
  const std::vector<AttentionCase> cases = {
      {1, 1, 16, 0, 0, {{0, 1}}},
      {4, 4, 7, 0, 0, {{0, 33}}},
      {9, 3, 64, 0, 0, {{0, 130}, {200, 1}, {63, 1}, {64, 1}, {10, 60}}},
      {3, 3, 33, 17, 0, {{0, 90}, {100, 5}}},
      {8, 1, 80, 64, 0, {{0, 200}, {300, 1}}},
      {4, 2, 48, 1, 0, {{5, 70}}},
      {6, 2, 24, 100, 20, {{0, 70}, {150, 66}}},
      {15, 5, 18, 0, 50, {{0, 17}}},
      {100, 1, 16, 0, 0, {{3, 5}}},
      {6, 2, 64, 0, 0, {{2500, 1}, {1500, 40}}},
      {9, 3, 64, 0, 0, {{510, 4}, {200, 1}, {63, 3}, {0, 2}, {1030, 1}}},
      {4, 4, 20, 60, 30, {{1022, 5}, {127, 1}}},
  };
  for (const AttentionCase& test : cases) {
    const auto what =
        fmt::format("heads {} kv {} dim {} window {}", test.heads, test.kv_heads, test.head_dim, test.window);
    const auto got = attend(*cpu_, test, GetParam(), true);
    expect_close(got, attend(*reference_, test, GetParam(), false), attention_tolerance(GetParam()), what);
    EXPECT_EQ(got, attend(*cpu_, test, GetParam(), false))
        << what << ": stored before or by attention itself";
  }
}

}  // namespace
}  // namespace fathom
