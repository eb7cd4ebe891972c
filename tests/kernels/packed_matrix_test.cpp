// Quantised tensors of files as the runtime holds them: blocks that gguf-py's dequantisation is the oracle
// for (tests/oracle/make_formats.py, tests/formats/tensor_test.cpp).
#include "kernels/packed_matrix.h"

#include <fmt/format.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstring>
#include <string>
#include <utility>
#include <vector>

#include "base/fingerprint.h"
#include "base/processor.h"
#include "base/random.h"
#include "base/threads.h"
#include "formats/float16.h"
#include "formats/gguf.h"
#include "kernels/simd.h"

namespace fathom {
namespace {

const std::vector<std::string> quantised = {"Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0",
                                            "Q2_K", "Q3_K", "Q4_K", "Q5_K", "Q6_K"};

Tensor stored(const std::string& type) {
  return GgufFile(std::filesystem::path(FATHOM_TEST_DATA) / "formats" / "types.gguf").tensors().at(type);
}

std::vector<LinearPart> parts_of(const std::vector<Tensor>& tensors) {
  std::vector<LinearPart> parts;
  for (const Tensor& tensor : tensors) parts.push_back({&tensor, nullptr});
  return parts;
}

std::uint8_t byte_at(const std::byte* from, std::int64_t at) { return static_cast<std::uint8_t>(from[at]); }

float f16_at(const std::byte* from, std::int64_t column) {
  return from_f16(reinterpret_cast<const std::uint16_t*>(from)[column]);
}

// Scale and minimum of a group among a stretch's.
std::pair<float, float> group_values(const PackedMatrix& packed, const std::byte* from, std::int64_t groups,
                                     std::int64_t g, std::int64_t column) {
  const auto float_at = [&](std::int64_t at) {
    if (packed.scales_as == ScaleForm::f16) return f16_at(from + at * 32, column);
    return reinterpret_cast<const float*>(from + at * 64)[column];
  };
  const std::int64_t of_group = g * 16 + column;
  if (packed.scales_as == ScaleForm::eight_bits)
    return {f16_at(from + groups * 16, column) * static_cast<std::int8_t>(from[of_group]), 0.0F};
  if (packed.scales_as != ScaleForm::six_bits)
    return {float_at(g), packed.minima ? float_at(groups + g) : 0.0F};
  const int low = byte_at(from, of_group);
  const int high = byte_at(from, (groups + g / 2) * 16 + column) >> (g % 2 * 4);
  const std::byte* factors = from + groups * 24;
  return {f16_at(factors, column) * static_cast<float>(low % 16 + high % 4 * 16),
          -(f16_at(factors + 32, column) * static_cast<float>(low / 16 + high / 4 % 4 * 16))};
}

// scale * q + minimum of an element, read by what packed_matrix.h says of the layout.
float element(const PackedMatrix& packed, std::int64_t panel, std::int64_t column, std::int64_t i) {
  const std::int64_t s = i / 256, inputs = std::min<std::int64_t>(256, packed.padded_in - s * 256);
  const std::int64_t groups = inputs / packed.group;
  const std::byte* from = packed.panel(panel) + s * packed.stretch_bytes(256);
  const auto [scale, minimum] = group_values(packed, from, groups, i % 256 / packed.group, column);
  from += packed.scale_bytes(groups);
  i %= 256;
  int q = 0;
  if (packed.bits() == 8) {
    q = static_cast<std::int8_t>(from[(i / 4 * 16 + column) * 4 + i % 4]);
  } else {
    const std::int64_t row = packed.bits() == 4 ? i / 8 : i / 16 * 3 + i % 16 / 8;
    const int both = byte_at(from, (row * 16 + column) * 4 + i % 4);
    q = (i % 8 < 4 ? both % 16 : both / 16) - packed.zero();
    if (packed.bits() == 6)
      q += (byte_at(from, ((i / 16 * 3 + 2) * 16 + column) * 4 + i % 4) >> (i % 16 / 4 * 2)) % 4 * 16;
  }
  const float product = scale * static_cast<float>(q);
  return packed.minima ? product + minimum : product;
}

// EXPECTs that the matrix holds the tensors' rows one after another, to the last bit (0 may lose its sign
// where a minimum of 0 is added).
void expect_kept(const PackedMatrix& packed, const std::vector<Tensor>& tensors, const std::string& what) {
  std::int64_t before = 0;
  for (const Tensor& tensor : tensors) {
    const std::vector<float> expected = decode(tensor);
    const std::int64_t width = tensor.row_elements();
    std::int64_t wrong = 0;
    for (std::int64_t row = 0; row < tensor.rows(); ++row)
      for (std::int64_t i = 0; i < width; ++i)
        wrong += element(packed, (before + row) / panel_outputs, (before + row) % panel_outputs, i) !=
                 expected[static_cast<std::size_t>(row * width + i)];
    EXPECT_EQ(wrong, 0) << what;
    before += tensor.rows();
  }
}

TEST(PackedMatrix, NativeKeepsEveryQuantisedTypeToTheLastBitInTheFewestBits) {
  for (const std::string& type : quantised) {
    const std::vector<Tensor> tensors = {stored(type)};
    const PackedMatrix packed = pack_matrix(parts_of(tensors), false, Compute::native);
    EXPECT_EQ(packed.type, type[1] < '5'   ? Compute::int4_groups
                           : type[1] < '8' ? Compute::int6_groups
                                           : Compute::int8_groups)
        << type;
    expect_kept(packed, tensors, type);
  }
}

// What is stored with 4 or 6 bits a weight is no larger than in the file.
TEST(PackedMatrix, FilesOfFourAndSixBitsTakeNoMoreThanInTheFile) {
  for (const char* type : {"Q4_0", "Q4_1", "Q4_K", "Q6_K"}) {
    Tensor tensor = stored(type);
    const std::vector<Tensor> tensors(16, tensor);
    std::int64_t bytes = 0;
    for (const Tensor& t : tensors) bytes += std::ssize(t.data);
    const PackedMatrix packed = pack_matrix(parts_of(tensors), false, Compute::native);
    ASSERT_EQ(packed.out % panel_outputs, 0);
    EXPECT_LE(std::ssize(packed.bytes()), (bytes + 63 * packed.panels())) << type;
  }
}

TEST(PackedMatrix, TypesThatShareAProductBecomeTheRichest) {
  for (const auto& [types, expected] : std::vector<std::pair<std::vector<std::string>, Compute>>{
           {{"Q4_K", "Q4_K", "Q6_K"}, Compute::int6_groups},
           {{"Q5_0", "Q5_1", "Q4_0"}, Compute::int6_groups},
           {{"Q5_K", "Q4_K"}, Compute::int6_groups},
           {{"Q4_0", "Q4_1"}, Compute::int4_groups},
           {{"Q4_0", "Q2_K", "Q3_K"}, Compute::int4_groups},
           {{"Q4_K", "Q2_K"}, Compute::int4_groups},
           {{"Q8_0", "Q5_1", "Q4_1", "Q4_0"}, Compute::int8_groups}}) {
    std::vector<Tensor> tensors;
    for (const std::string& type : types) tensors.push_back(stored(type));
    const PackedMatrix packed = pack_matrix(parts_of(tensors), false, Compute::native);
    EXPECT_EQ(packed.type, expected);
    expect_kept(packed, tensors, fmt::format("{} and others", types.front()));
  }
}

TEST(PackedMatrix, NativeFloatsAreBf16WhereThatHoldsThem) {
  const std::vector<float> coarse = {1, -2.5, 0.0078125, 256}, fine = {1, -2.5, 0.0078125, 257};
  const auto native = [](DType type, const std::vector<float>& values) {
    const std::vector<Tensor> tensors = {make_tensor(type, {2, 2}, values)};
    return resolved_type(parts_of(tensors), Compute::native);
  };
  EXPECT_EQ(native(DType::bf16, fine), Compute::bf16);
  EXPECT_EQ(native(DType::f16, coarse), Compute::bf16);
  EXPECT_EQ(native(DType::f16, fine), Compute::f32);
  EXPECT_EQ(native(DType::f32, coarse), Compute::bf16);
  EXPECT_EQ(native(DType::f32, fine), Compute::f32);
  const std::vector<Tensor> both = {stored("Q8_0"), stored("BF16")};
  EXPECT_EQ(resolved_type(parts_of(both), Compute::native), Compute::f32);
}

TEST(PackedMatrix, RowsOfInterleavedHeadsComeBackInOrder) {
  Tensor tensor = stored("Q5_0");
  tensor.shape = {6, 256};
  tensor.interleaved_heads = 1;
  const std::vector<Tensor> tensors = {tensor};
  expect_kept(pack_matrix(parts_of(tensors), false, Compute::native), tensors, "interleaved");
}

TEST(PackedMatrix, FewerBitsThanTheFileAreRounded) {
  const std::vector<Tensor> tensors = {stored("Q8_0")};
  const PackedMatrix packed = pack_matrix(parts_of(tensors), false, Compute::int4_groups);
  EXPECT_EQ(packed.type, Compute::int4_groups);
  const std::vector<float> values = decode(tensors[0]);
  for (std::int64_t row = 0; row < tensors[0].rows(); ++row) {
    double error = 0, square = 0;
    for (std::int64_t i = 0; i < packed.in; ++i) {
      const float value = values[static_cast<std::size_t>(row * packed.in + i)];
      error += std::pow(element(packed, 0, row, i) - value, 2);
      square += std::pow(value, 2);
    }
    EXPECT_LT(error, 0.02 * square);
  }
}

// Files of packed weights serve every level.
TEST(PackedMatrix, WeightsInBf16AreTheSameAtEveryLevel) {
  std::vector<float> values(40);
  for (std::size_t i = 0; i < values.size(); ++i) values[i] = std::ldexp(1.0F + 0.01F * i, -120 - int(i) / 4);
  std::vector<std::uint16_t> got(values.size());
  simd::to_bf16(values.size(), values.data(), got.data());
  for (std::size_t i = 0; i < values.size(); ++i) EXPECT_EQ(got[i], to_bf16(values[i])) << values[i];
}

// What this says of the bytes is what files of packed weights hold, at every level of instruction sets. If it
// fails because the layout is another now: raise packed_layout, and put the new digests here.
TEST(PackedMatrix, TheLayoutIsTheOneThatFilesHold) {
  std::vector<float> values(20 * 70);
  Random random(5);
  for (float& v : values) v = static_cast<float>(random.uniform()) - 0.5F;
  const std::vector<Tensor> floats = {make_tensor(DType::f32, {20, 70}, values)};
  std::string digests = fmt::format("layout {}", packed_layout);
  const auto add = [&](const std::vector<Tensor>& tensors, bool gated, Compute type) {
    Fingerprint digest;
    digest.add(pack_matrix(parts_of(tensors), gated, type).bytes());
    digests += " " + digest.hex();
  };
  for (const Compute type : {Compute::f32, Compute::bf16, Compute::int8, Compute::int4, Compute::int8_groups,
                             Compute::int6_groups, Compute::int4_groups})
    add(floats, false, type);
  add({floats[0], floats[0]}, true, Compute::int8);
  for (const char* type : {"Q4_0", "Q4_K", "Q5_1", "Q6_K"}) add({stored(type)}, false, Compute::native);
  EXPECT_EQ(digests,
            "layout 2 8d58b336d45e7bb0 668f8090339daa24 4b32e55c49add906 01b1d8b423fdb6fb 6bd39485d108c6ab "
            "6444d10e008f16ce 1bca9cb1b44e0808 d67fd71fe921c752 2fc68027ff1e1d44 47367580c25ca165 "
            "f38b35cc4e25ad5c eb45ddc1630f1ca7");
}

TEST(PackedMatrix, AViewHasThePanelsSizeOrIsNone) {
  std::vector<float> values(20 * 70, 0.5F);
  const std::vector<Tensor> tensors = {make_tensor(DType::f32, {20, 70}, values)};
  const auto parts = parts_of(tensors);
  for (const auto& backend : {make_cpu_backend(), make_tracing_backend(make_cpu_backend(), stderr)}) {
    const auto packed = backend->pack(parts, Compute::int8);
    const auto data = packed->data;
    const auto view = backend->view(parts, false, Compute::int8, data, nullptr);
    ASSERT_NE(view, nullptr);
    if (memory_nodes() == 1) {
      EXPECT_EQ(view->data.data(), data.data());
    }
    EXPECT_TRUE(std::ranges::equal(view->data, data));
    EXPECT_EQ(view->bytes, packed->bytes);
    EXPECT_EQ(backend->view(parts, false, Compute::int8, data.first(data.size() - 64), nullptr), nullptr);
    EXPECT_EQ(backend->view(parts, false, Compute::bf16, data, nullptr), nullptr);
  }
  EXPECT_TRUE(make_reference_backend()->pack(parts, Compute::int8)->data.empty());
}

TEST(PackedMatrix, PanelsAreBroughtNearWhole) {
  std::vector<float> values(200 * 70);
  Random random(3);
  for (float& v : values) v = static_cast<float>(random.normal());
  const std::vector<Tensor> tensors = {make_tensor(DType::f32, {200, 70}, values)};
  const PackedMatrix packed = pack_matrix(parts_of(tensors), false, Compute::int8);
  PackedMatrix near = *view_matrix(parts_of(tensors), false, Compute::int8, packed.bytes(), nullptr);
  for (const int threads : {1, 3, 16}) {
    set_threads(threads);
    if (near.lent.empty()) near.lent = packed.bytes();
    bring_near(near);
    EXPECT_NE(near.bytes().data(), packed.bytes().data());
    EXPECT_TRUE(std::ranges::equal(near.bytes(), packed.bytes())) << threads << " threads";
  }
  set_threads(0);
}

class FileTypes : public testing::TestWithParam<std::string> {
 protected:
  static std::vector<float> normals(std::int64_t count) {
    Random random(3);
    std::vector<float> values(static_cast<std::size_t>(count));
    for (float& v : values) v = static_cast<float>(random.normal());
    return values;
  }
  // 57 rows, whose panels begin within tensors.
  std::vector<Tensor> tensors_ = std::vector<Tensor>(19, stored(GetParam()));
  std::int64_t in_ = tensors_[0].row_elements(), out_ = 57;
};
INSTANTIATE_TEST_SUITE_P(Types, FileTypes, testing::ValuesIn(quantised),
                         [](const auto& test) { return test.param; });

TEST_P(FileTypes, ProductsAreTheReferences) {
  const auto parts = parts_of(tensors_);
  const auto fast = make_cpu_backend()->pack(parts, Compute::native);
  const auto plain = make_reference_backend()->pack(parts, Compute::native);
  EXPECT_EQ(fast->type, plain->type);
  for (const std::int64_t rows : {1, 2, 3, 5, 17, 40}) {
    const auto x = normals(rows * in_);
    std::vector<float> got(static_cast<std::size_t>(rows * out_)), expected(got);
    make_cpu_backend()->linear(*fast, rows, float_rows(x.data(), in_), got.data(), out_, false);
    make_reference_backend()->linear(*plain, rows, float_rows(x.data(), in_), expected.data(), out_, false);
    double largest = 0, difference = 0;
    for (std::size_t i = 0; i < got.size(); ++i) {
      largest = std::max(largest, std::abs(double{expected[i]}));
      difference = std::max(difference, std::abs(double{got[i]} - expected[i]));
    }
    EXPECT_LE(difference, 5e-6 * largest) << rows << " rows";
  }
}

TEST_P(FileTypes, ARowIsTheSameToTheLastBitBesideAnyOthers) {
  const auto backend = make_cpu_backend();
  const auto packed = backend->pack(parts_of(tensors_), Compute::native);
  constexpr std::int64_t rows = 150;
  const auto x = normals(rows * in_);
  std::vector<float> together(static_cast<std::size_t>(rows * out_));
  backend->linear(*packed, rows, float_rows(x.data(), in_), together.data(), out_, false);
  for (const int threads : {1, 2}) {
    set_threads(threads);
    for (const std::int64_t count : {1, 2, 3, 4, 9, 33, 128}) {
      std::vector<float> apart(static_cast<std::size_t>(count * out_));
      backend->linear(*packed, count, float_rows(x.data() + (rows - count) * in_, in_), apart.data(), out_,
                      false);
      EXPECT_TRUE(std::equal(apart.begin(), apart.end(), together.end() - count * out_))
          << count << " rows on " << threads << " threads";
    }
  }
  set_threads(0);
}

}  // namespace
}  // namespace fathom
