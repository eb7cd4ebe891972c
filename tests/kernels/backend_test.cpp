// The CPU backend against the plain loops of the reference, over odd shapes, in both types.
#include "kernels/backend.h"

#include <fmt/format.h>
#include <gtest/gtest.h>
#include <hwy/targets.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <optional>
#include <string>
#include <vector>

#include "base/random.h"
#include "base/threads.h"
#include "kernels/aligned.h"
#include "kernels/bf16.h"
#include "kernels/isa.h"

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

INSTANTIATE_TEST_SUITE_P(Types, BackendTest, testing::Values(Compute::f32, Compute::bf16),
                         [](const auto& test) { return test.param == Compute::f32 ? "f32" : "bf16"; });

TEST_P(BackendTest, LinearOfEveryShape) {
  for (const std::int64_t in : {1, 7, 33, 97, 576}) {
    for (const std::int64_t out : {1, 64, 130, 300}) {
      const Tensor weight = make_tensor(DType::f32, {out, in}, normals(random_, out * in, 1 / std::sqrt(in)));
      const Tensor bias = make_tensor(DType::f32, {out}, normals(random_, out));
      for (const bool with_bias : {false, true}) {
        const auto fast = cpu_->pack(weight, with_bias ? &bias : nullptr, GetParam());
        const auto plain = reference_->pack(weight, with_bias ? &bias : nullptr, GetParam());
        EXPECT_EQ(fast->out, out);
        EXPECT_EQ(fast->in, in);
        for (const std::int64_t rows : {1, 2, 3, 4, 5, 6, 7, 17, 70}) {
          const auto x = normals(random_, rows * in);
          for (const bool accumulate : {false, true}) {
            auto expected = normals(random_, rows * out);
            auto got = expected;
            reference_->linear(*plain, rows, x.data(), expected.data(), accumulate);
            cpu_->linear(*fast, rows, x.data(), got.data(), accumulate);
            expect_close(got, expected, tolerance * std::sqrt(in + 8),
                         fmt::format("rows {} in {} out {} bias {} accumulate {}", rows, in, out, with_bias,
                                     accumulate));
          }
        }
      }
    }
  }
}

TEST_P(BackendTest, LinearOfManyRowsIsCutRightly) {
  const std::int64_t in = 64, out = 70, rows = 1100;  // 512 + 512 + 64 + 12
  const Tensor weight = make_tensor(DType::bf16, {out, in}, normals(random_, out * in, 0.1));
  const auto x = normals(random_, rows * in);
  std::vector<float> got(static_cast<std::size_t>(rows * out)), expected(got);
  cpu_->linear(*cpu_->pack(weight, nullptr, GetParam()), rows, x.data(), got.data(), false);
  reference_->linear(*reference_->pack(weight, nullptr, GetParam()), rows, x.data(), expected.data(), false);
  expect_close(got, expected, 1e-5, "1100 rows");
}

TEST(Backend, RmsNorm) {
  Random random(1);
  for (const std::int64_t width : widths) {
    for (const std::int64_t rows : row_counts) {
      const auto x = normals(random, rows * width, 3), gain = normals(random, width);
      std::vector<float> expected(x), got(x);  // in place in one, apart in the other
      make_reference_backend()->rms_norm(rows, width, x.data(), gain.data(), 1e-5F, expected.data());
      make_cpu_backend()->rms_norm(rows, width, got.data(), gain.data(), 1e-5F, got.data());
      expect_close(got, expected, 3e-6, fmt::format("{} x {}", rows, width));
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
        auto expected = normals(random, rows * heads * head_dim);
        auto got = expected;
        make_reference_backend()->rotary(rows, heads, head_dim, positions.data(), table.data(),
                                         expected.data());
        make_cpu_backend()->rotary(rows, heads, head_dim, positions.data(), table.data(), got.data());
        expect_close(got, expected, 1e-6, fmt::format("{} x {} x {}", rows, heads, head_dim));
      }
    }
  }
}

TEST(Backend, GatedActivations) {
  Random random(3);
  for (const GateActivation activation :
       {GateActivation::silu, GateActivation::gelu, GateActivation::gelu_tanh, GateActivation::relu}) {
    for (const std::int64_t rows : row_counts) {
      const std::int64_t width = 97;
      auto expected = normals(random, rows * width, 4);
      expected[0] = -200;  // e^200 is no float32
      const auto up = normals(random, rows * width);
      auto got = expected;
      make_reference_backend()->gated_activation(rows, width, activation, expected.data(), up.data());
      make_cpu_backend()->gated_activation(rows, width, activation, got.data(), up.data());
      expect_close(got, expected, 1e-6, fmt::format("activation {}", static_cast<int>(activation)));
    }
  }
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

TEST(Backend, NotANumberStaysInItsRow) {
  const std::int64_t in = 33, out = 65;
  Random random(5);
  const Tensor weight = make_tensor(DType::f32, {out, in}, normals(random, out * in));
  const auto cpu = make_cpu_backend();
  for (const Compute compute : {Compute::f32, Compute::bf16}) {
    const auto packed = cpu->pack(weight, nullptr, compute);
    for (const std::int64_t rows : {2, 20}) {
      auto x = normals(random, rows * in);
      x[0] = std::numeric_limits<float>::quiet_NaN();
      x[1] = std::numeric_limits<float>::denorm_min();
      std::vector<float> y(static_cast<std::size_t>(rows * out));
      cpu->linear(*packed, rows, x.data(), y.data(), false);
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

std::vector<float> attend(const Backend& backend, const AttentionCase& test, Compute type) {
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
  for (float& q : queries) q = from_bf16(to_bf16(q));  // as tiles have them
  backend.store_kv(layout, spans, keys.data(), values.data(), stride);
  std::vector<float> out(static_cast<std::size_t>(rows * test.heads * test.head_dim));
  backend.attention(shape, spans, queries.data(), out.data());
  return out;
}

// Tiles round the weights of the softmax to bf16, each by up to 2^-9, and so at most the result too.
double attention_tolerance(Compute type) {
  return type == Compute::bf16 && isa() == Isa::amx ? 0x1p-8 : 3e-6;
}

TEST_P(BackendTest, Attention) {
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
  };
  for (const AttentionCase& test : cases)
    expect_close(attend(*cpu_, test, GetParam()), attend(*reference_, test, GetParam()),
                 attention_tolerance(GetParam()),
                 fmt::format("heads {} kv {} dim {} window {}", test.heads, test.kv_heads, test.head_dim,
                             test.window));
}

// The dispatch chooses the machine's best; the others must be right too.
TEST_P(BackendTest, EveryInstructionSet) {
  const AttentionCase test = {6, 2, 40, 50, 20, {{0, 70}, {150, 3}}};
  const std::int64_t in = 97, out = 130, rows = 3;
  const Tensor weight = make_tensor(DType::f32, {out, in}, normals(random_, out * in));
  const auto fast = cpu_->pack(weight, nullptr, GetParam()),
             plain = reference_->pack(weight, nullptr, GetParam());
  const auto x = normals(random_, rows * out), gain = normals(random_, out);
  const auto results = [&](const Backend& backend, const PackedLinear& packed) {
    std::vector<float> y(static_cast<std::size_t>(rows * out));
    backend.linear(packed, rows, x.data(), y.data(), false);
    backend.rms_norm(rows, out, y.data(), gain.data(), 1e-6F, y.data());
    for (const auto activation : {GateActivation::silu, GateActivation::gelu, GateActivation::gelu_tanh})
      backend.gated_activation(rows, out, activation, y.data(), x.data());
    backend.softcap(rows * out, 5, y.data());
    return y;
  };
  constexpr std::int64_t portable =
      HWY_EMU128 | HWY_SCALAR;  // which of them, Highway decides by the compiler
  for (const std::int64_t target : {std::int64_t{HWY_AVX3}, std::int64_t{HWY_AVX2}, portable}) {
    hwy::SetSupportedTargetsForTest(0);
    if (target != portable && (hwy::SupportedTargets() & target) == 0) continue;
    hwy::SetSupportedTargetsForTest(target);
    const std::string name = cpu_->describe();
    expect_close(attend(*cpu_, test, GetParam()), attend(*reference_, test, GetParam()),
                 attention_tolerance(GetParam()), name);
    expect_close(results(*cpu_, *fast), results(*reference_, *plain), 1e-5, name);
  }
  hwy::SetSupportedTargetsForTest(0);
}

TEST_P(BackendTest, ResultsDoNotDependOnTheNumberOfThreads) {
  const int threads = thread_count();
  const std::int64_t in = 576, out = 200;
  const Tensor weight = make_tensor(DType::f32, {out, in}, normals(random_, out * in));
  const auto packed = cpu_->pack(weight, nullptr, GetParam());
  for (const std::int64_t rows : {1, 3, 40}) {
    const auto x = normals(random_, rows * in);
    std::vector<float> one(static_cast<std::size_t>(rows * out)), three(one);
    set_threads(1);
    cpu_->linear(*packed, rows, x.data(), one.data(), false);
    set_threads(3);
    cpu_->linear(*packed, rows, x.data(), three.data(), false);
    EXPECT_EQ(one, three) << rows;
  }
  set_threads(threads);
}

}  // namespace
}  // namespace fathom
