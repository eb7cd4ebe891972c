#include "formats/safetensors.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "base/error.h"
#include "base/file.h"
#include "damage.h"
#include "formats/gguf.h"
#include "message.h"
#include "scratch.h"

namespace fathom {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;

const std::filesystem::path data = std::filesystem::path(FATHOM_TEST_DATA) / "formats";

/// A file with this header and `bytes` zero bytes of data.
std::string file_with(const std::string& header, std::size_t bytes) {
  const std::uint64_t length = header.size();
  return std::string(reinterpret_cast<const char*>(&length), sizeof length) + header +
         std::string(bytes, '\0');
}

void expect_values_of_the_python_library(const TensorMap& tensors) {
  EXPECT_EQ(tensors.size(), 5U);  // ids (I64) and mask (BOOL) are left out
  EXPECT_EQ(tensors.at("f32").shape, (Shape{2, 3}));
  EXPECT_THAT(decode(tensors.at("f32")), ElementsAre(1.5F, -2.0F, 3.25F, 0.0F, -0.0F, 1e-40F));
  EXPECT_EQ(tensors.at("f16").dtype, DType::f16);
  EXPECT_THAT(decode(tensors.at("f16")), ElementsAre(1.0F, 65504.0F, 0x1p-24F, -0.3330078125F));
  EXPECT_EQ(tensors.at("bf16").dtype, DType::bf16);
  EXPECT_THAT(decode(tensors.at("bf16")), ElementsAre(1.0F, 3.140625F, -0x1.2cp+126F, 0x1.b4p-127F));
  EXPECT_TRUE(tensors.at("scalar").shape.empty());
  EXPECT_THAT(decode(tensors.at("scalar")), ElementsAre(7.0F));
  EXPECT_EQ(tensors.at("empty").shape, (Shape{0, 4}));
  EXPECT_TRUE(decode(tensors.at("empty")).empty());
}

TEST(Safetensors, ReadsWhatThePythonLibraryWrote) {
  expect_values_of_the_python_library(read_safetensors(data / "single.safetensors"));
}

TEST(Safetensors, ReadsShards) {
  const SafetensorsContent content = read_safetensors_directory(data / "sharded");
  expect_values_of_the_python_library(content.tensors);
  EXPECT_EQ(content.left_out.size(), 2U);
  EXPECT_THAT(content.left_out.at("ids"), HasSubstr("is of type I64, which is not read"));
}

TEST(Safetensors, WritesPlainTensorsAsTheyAreAndDecodesTheOthers) {
  const test::Scratch scratch;
  const auto path = scratch / "model.safetensors";
  Tensor quantised = GgufFile(data / "types.gguf").tensors().at("Q4_K");
  const Tensor half = make_tensor(DType::f16, {3}, std::vector<float>{1, 2, 3});
  write_safetensors(path, {{"z", quantised}, {"a", half}}, DType::f32);

  const TensorMap read = read_safetensors_directory(scratch.path()).tensors;
  EXPECT_EQ(read.at("z").dtype, DType::f32);
  EXPECT_EQ(decode(read.at("z")), decode(quantised));
  EXPECT_EQ(read.at("a").dtype, DType::f16);
  EXPECT_EQ(decode(read.at("a")), decode(half));
  EXPECT_EQ(reinterpret_cast<std::uintptr_t>(read.at("z").data.data()) % 64, 0U);
  EXPECT_EQ(read.at("z").data.data() + read.at("z").data.size(), read.at("a").data.data());
}

TEST(Safetensors, WhatWouldNotBeFiniteIsNamedAndNotWritten) {
  const test::Scratch scratch;
  constexpr float infinity = std::numeric_limits<float>::infinity();
  const auto refused = [&](const Tensor& tensor, DType as, const std::string& complaint) {
    EXPECT_THAT(message([&] {
                  write_safetensors(scratch / "x", {{"weight", tensor}}, as);
                }),
                HasSubstr(complaint));
    EXPECT_TRUE(std::filesystem::is_empty(scratch.path()));
  };
  std::vector<float> values(1'000'000, 1.0F);
  for (const DType type : {DType::f32, DType::f16, DType::bf16}) {
    values.back() = std::numeric_limits<float>::quiet_NaN();
    refused(make_tensor(type, {1000, 1000}, values), DType::bf16,
            fmt::format("tensor 'weight' would hold nan as {} (element 999999 of", dtype_name(type)));
    values.back() = -infinity;
    refused(make_tensor(type, {1000, 1000}, values), DType::bf16, "would hold -inf");
  }
  // Narrowed: a block of 127 times the largest scale, and a float64 that is none of float32.
  Tensor block = GgufFile(data / "types.gguf").tensors().at("Q8_0");
  std::vector<std::byte> bytes(block.data.begin(), block.data.end());
  bytes[0] = std::byte{0xff};
  bytes[1] = std::byte{0x7b};
  bytes[2] = std::byte{127};
  block.data = bytes;
  refused(block, DType::f16, "would hold inf as F16 (element 0 of");
  write_safetensors(scratch / "y", {{"wide", block}}, DType::bf16);
  std::filesystem::remove(scratch / "y");
  const double huge = 1e300;
  refused({.dtype = DType::f64, .shape = {1}, .data = std::as_bytes(std::span(&huge, 1)), .owner = {}},
          DType::bf16, "would hold inf as F32");
}

TEST(Safetensors, WideAndNarrowFloatsAreWrittenAsTypesThatHoldThem) {
  const test::Scratch scratch;
  const auto path = scratch / "x";
  const double third = 1.0 / 3;
  const std::uint8_t eights[] = {0x38, 0x01};
  write_safetensors(
      path,
      {{"f64", {.dtype = DType::f64, .shape = {1}, .data = std::as_bytes(std::span(&third, 1)), .owner = {}}},
       {"f8",
        {.dtype = DType::f8_e4m3, .shape = {2}, .data = std::as_bytes(std::span(eights)), .owner = {}}}},
      DType::f16);
  const TensorMap read = read_safetensors(path);
  EXPECT_EQ(read.at("f64").dtype, DType::f32);
  EXPECT_EQ(read.at("f8").dtype, DType::bf16);
  EXPECT_THAT(decode(read.at("f64")), ElementsAre(1.0F / 3));
  EXPECT_THAT(decode(read.at("f8")), ElementsAre(1.0F, 0x1p-9F));
}

TEST(Safetensors, AFileMayBeWrittenOverItself) {
  const test::Scratch scratch;
  const auto path = scratch / "model.safetensors";
  write_safetensors(path, {{"a", make_tensor(DType::f32, {2}, std::vector<float>{1, 2})}});
  const TensorMap read = read_safetensors(path);
  write_safetensors(path, {{"b", read.at("a")}});
  EXPECT_THAT(decode(read_safetensors(path).at("b")), ElementsAre(1, 2));
}

TEST(Safetensors, TwoTensorsOfOneNameAreNotWritten) {
  const test::Scratch scratch;
  const Tensor tensor = make_tensor(DType::f32, {1}, std::vector<float>{1});
  EXPECT_THAT(message([&] {
                write_safetensors(scratch / "x", {{"a", tensor}, {"a", tensor}});
              }),
              HasSubstr("two tensors are named \"a\""));
  EXPECT_FALSE(std::filesystem::exists(scratch / "x"));
}

struct Lie {
  std::string header;
  std::size_t bytes;
  std::string complaint;
};

TEST(Safetensors, AHeaderThatLiesIsRefusedWithTheTensorsName) {
  const std::string good = R"("a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]})";
  const Lie lies[] = {
      {"{" + good + "}", 7, "tensor \"a\": its data end at 8, but the file has only 7 bytes"},
      {"{" + good + "}", 9, "9 bytes of data, but the header's tensors end at 8"},
      {"{" + good + "," + good + "}", 8, "\"a\" occurs twice"},
      {R"({"a":{"dtype":"F32","dtype":"F16","shape":[2],"data_offsets":[0,8]}})", 8,
       "\"dtype\" occurs twice"},
      {"{" + good + R"(,"b":{"dtype":"F32","shape":[1],"data_offsets":[4,8]}})", 8,
       "tensor \"b\": its data begin at 4"},
      {"{" + good + R"(,"b":{"dtype":"F32","shape":[1],"data_offsets":[12,16]}})", 16,
       "its data begin at 12, expected 8"},
      {R"({"a":{"dtype":"F32","shape":[3],"data_offsets":[0,8]}})", 8, "hold 8 bytes, but F32 [3] takes 12"},
      {R"({"a":{"dtype":"Q9","shape":[2],"data_offsets":[0,8]}})", 8, "dtype is \"Q9\""},
      {R"({"a":{"dtype":7,"shape":[2],"data_offsets":[0,8]}})", 8, "dtype is 7"},
      {R"({"a":{"shape":[2],"data_offsets":[0,8]}})", 8, "dtype is missing"},
      {R"({"a":{"dtype":"F32","shape":[-2],"data_offsets":[0,8]}})", 8, "shape is [-2]"},
      {R"({"a":{"dtype":"F32","shape":[2.0],"data_offsets":[0,8]}})", 8, "shape is [2.0]"},
      {R"({"a":{"dtype":"F32","shape":[4294967296,4294967296,2],"data_offsets":[0,8]}})", 8,
       "shape is [4294967296,"},
      {R"({"a":{"dtype":"F32","shape":[18446744073709551615],"data_offsets":[0,8]}})", 8,
       "shape is [1844674407"},
      {R"({"a":{"dtype":"F32","shape":[2],"data_offsets":[8,0]}})", 8, "data_offsets is [8,0]"},
      {R"({"a":{"dtype":"F32","shape":[2],"data_offsets":[0]}})", 8, "data_offsets is [0]"},
      {R"({"a":{"dtype":"F32","shape":[1,1,1,1,1,1,1,1,2],"data_offsets":[0,8]}})", 8,
       "a list of more than 8"},
      {R"({"a":3})", 0, "its entry is 3"},
      {"[1]", 0, "expected an object"},
      {"{", 0, "not valid JSON"},
      {std::string(100'000, '['), 0, "nested deeper"},
      {R"({"a":)" + std::string(100'000, '['), 0, "nested deeper"},
  };
  const test::Scratch scratch;
  const auto path = scratch / "lie.safetensors";
  for (const Lie& lie : lies) {
    write_file(path, file_with(lie.header, lie.bytes));
    const std::string complaint = message([&] { read_safetensors(path); });
    EXPECT_THAT(complaint, HasSubstr(lie.complaint)) << lie.header.substr(0, 200);
    EXPECT_THAT(complaint, HasSubstr("lie.safetensors"));
  }
}

TEST(Safetensors, ManyTensorsAreReadWithoutQuadraticWork) {
  std::string header = "{";
  for (int i = 0; i < 100'000; ++i) {
    header +=
        (i > 0 ? "," : "") + fmt::format(R"("t{}":{{"dtype":"F32","shape":[0],"data_offsets":[0,0]}})", i);
  }
  const test::Scratch scratch;
  write_file(scratch / "many", file_with(header + "}", 0));
  EXPECT_EQ(read_safetensors(scratch / "many").size(), 100'000U);
}

TEST(Safetensors, DamagedFilesLoadOrAreRefused) {
  const test::Scratch scratch;
  const auto path = scratch / "damaged.safetensors";
  const std::string original = read_file(data / "single.safetensors");
  const auto load = [&] {
    for (const auto& [name, tensor] : read_safetensors(path)) decode(tensor);
  };
  EXPECT_EQ(test::expect_survives_truncation(path, original, load), 0);
  EXPECT_GT(test::expect_survives_damage(path, original, 4000, load), 0);
}

class Shards : public testing::Test {
 protected:
  Shards() {
    std::filesystem::copy(data / "sharded", scratch.path());
    text = read_file(index);
  }
  std::string read_with(const std::string& from, const std::string& to) {
    std::string changed = text;
    changed.replace(changed.find(from), from.size(), to);
    write_file(index, changed);
    return message([&] { read_safetensors_directory(scratch.path()); });
  }

  test::Scratch scratch;
  std::filesystem::path index = scratch / "model.safetensors.index.json";
  std::string text;
};

TEST_F(Shards, WhatTheIndexNamesAndNoShardHoldsIsLeftOutAndWhatItDoesNotNameIsRead) {
  EXPECT_EQ(read_with("\"f32\"", "\"f33\""), "no error");
  const SafetensorsContent content = read_safetensors_directory(scratch.path());
  EXPECT_TRUE(content.tensors.contains("f32"));
  EXPECT_FALSE(content.tensors.contains("f33"));
  EXPECT_EQ(content.left_out.at("f33"),
            "is in \"model-00001-of-00003.safetensors\" by the index, but not in that file");
}

TEST_F(Shards, AnIndexThatLiesIsRefusedWithTheTensorsName) {
  EXPECT_THAT(read_with("model-00001", "../model-00001"), HasSubstr("which is no file beside the index"));
  EXPECT_THAT(read_with("model-00001", "model-00009"), HasSubstr("which is no file beside the index"));
  EXPECT_THAT(read_with("\"model-00001-of-00003.safetensors\"", "5"), HasSubstr("\"f32\" is in 5"));
  EXPECT_THAT(read_with("\"model-00001-of-00003.safetensors\"", "\".\""), HasSubstr("which is no file"));
  EXPECT_THAT(read_with("model-00001", std::string(5000, 'x')), HasSubstr("which is no file beside"));
  EXPECT_THAT(read_with("weight_map", "weights"), HasSubstr("field 'weight_map' is missing"));
}

TEST_F(Shards, DamagedIndicesLoadOrAreRefused) {
  EXPECT_GT(
      test::expect_survives_damage(index, text, 2000, [&] { read_safetensors_directory(scratch.path()); }),
      0);
}

TEST_F(Shards, ADirectoryWithoutWeightsIsRefused) {
  std::filesystem::remove(index);
  EXPECT_THAT(message([&] { read_safetensors_directory(scratch.path()); }),
              testing::AllOf(HasSubstr("neither model.safetensors nor"),
                             HasSubstr("(it holds \"model-00001-of-00003.safetensors\"")));
}

}  // namespace
}  // namespace fathom
