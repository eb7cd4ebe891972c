#include "formats/gguf_write.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <fstream>

#include "base/error.h"
#include "base/file.h"
#include "base/random.h"
#include "formats/dequantise.h"
#include "formats/gguf.h"
#include "formats/quantise.h"
#include "message.h"
#include "scratch.h"

namespace fathom {
namespace {

using testing::HasSubstr;

const std::filesystem::path data = std::filesystem::path(FATHOM_TEST_DATA) / "formats";

Tensor random_matrix(std::int64_t rows, std::int64_t columns, DType dtype = DType::f32) {
  Random random(5);
  std::vector<float> values(static_cast<std::size_t>(rows * columns));
  for (float& value : values) value = static_cast<float>(random.normal());
  return make_tensor(dtype, {rows, columns}, values);
}

std::vector<GgufTensor> one(Tensor tensor, DType dtype, std::int64_t heads = 0) {
  return {{.name = "t", .tensor = std::move(tensor), .dtype = dtype, .interleaved_heads = heads}};
}

// gguf-py's quantize, which is ggml's reference.
TEST(Quantise, BlocksAreThoseOfTheReferenceToTheByte) {
  const TensorMap oracle = read_safetensors(data / "quantised.safetensors");
  const GgufFile file(data / "quantised.gguf");
  const std::vector<float> values = decode(oracle.at("values"));
  for (const auto& [name, expected] : file.tensors()) {
    std::vector<std::byte> blocks(expected.data.size());
    EXPECT_TRUE(quantise(expected.dtype, values.data(), std::ssize(values) / block_elements(expected.dtype),
                         blocks.data()));
    std::size_t first = 0;
    while (first < blocks.size() && blocks[first] == expected.data[first]) ++first;
    EXPECT_EQ(first, blocks.size()) << name << " differs from byte " << first << " on";
  }
  EXPECT_EQ(file.tensors().size(), 3U);
}

/// Root mean square of what a type loses of normal values, relative to them.
double loss_of(DType dtype, float mean) {
  Random random(9);
  std::vector<float> values(256 * 64), back(values.size());
  for (float& value : values) value = mean + static_cast<float>(random.normal());
  const std::int64_t blocks = std::ssize(values) / block_elements(dtype);
  std::vector<std::byte> stored(static_cast<std::size_t>(blocks * block_bytes(dtype)));
  EXPECT_TRUE(quantise(dtype, values.data(), blocks, stored.data()));
  dequantise(dtype, stored.data(), blocks, back.data());
  double lost = 0, all = 0;
  for (std::size_t i = 0; i < values.size(); ++i) {
    lost += std::pow(back[i] - values[i], 2);
    all += std::pow(values[i], 2);
  }
  return std::sqrt(lost / all);
}

// 4.5 bits a value each; a line has a minimum, too, which helps most where values do not lie around zero.
TEST(Quantise, LinesOf4BitsLoseLessThanScalesAlone) {
  EXPECT_LT(loss_of(DType::q4_k, 0), 0.85 * loss_of(DType::q4_0, 0));
  EXPECT_LT(loss_of(DType::q4_k, 4), 0.5 * loss_of(DType::q4_0, 4));
  EXPECT_LT(loss_of(DType::q4_k, -4), 0.5 * loss_of(DType::q4_0, -4));
  const std::vector<float> zeros(256);
  std::vector<std::byte> stored(144);
  std::vector<float> back(256, 1.0F);
  EXPECT_TRUE(quantise(DType::q4_k, zeros.data(), 1, stored.data()));
  dequantise(DType::q4_k, stored.data(), 1, back.data());
  EXPECT_EQ(back, zeros);
}

TEST(GgufWrite, MetadataOfEveryKindComesBack) {
  const test::Scratch scratch;
  GgufMetadata metadata = GgufFile(data / "metadata.gguf").metadata();
  metadata.erase("general.alignment");
  metadata["f64"] = 0.25;  // floats are float32
  write_gguf(scratch / "m.gguf", metadata, {});
  EXPECT_EQ(GgufFile(scratch / "m.gguf").metadata(), metadata);
}

// llama.cpp reads a key only in the type that it expects.
TEST(GgufWrite, NumbersHaveTheWidthsThatLlamaCppReads) {
  const test::Scratch scratch;
  write_gguf(
      scratch / "m.gguf",
      {{"i", std::int64_t{7}}, {"n", std::int64_t{-1}}, {"f", 0.5}, {"l", std::vector<std::int64_t>{1}}}, {});
  const std::string bytes = read_file(scratch / "m.gguf");
  const auto type_of = [&](const char* key) {
    std::uint32_t type = 0;
    std::memcpy(&type, bytes.data() + bytes.find(std::string("\1\0\0\0\0\0\0\0", 8) + key) + 9, sizeof type);
    return type;
  };
  EXPECT_EQ(type_of("i"), 4U);
  EXPECT_EQ(type_of("n"), 5U);
  EXPECT_EQ(type_of("f"), 6U);
  EXPECT_EQ(type_of("l"), 9U);
}

TEST(GgufWrite, TensorsComeBackInEveryTypeAtMultiplesOf32Bytes) {
  const test::Scratch scratch;
  const Tensor matrix = random_matrix(5, 96), odd = random_matrix(3, 7);
  std::vector<GgufTensor> tensors;
  for (const DType dtype : {DType::f16, DType::bf16, DType::f32, DType::q8_0, DType::q4_0}) {
    tensors.push_back({std::string(dtype_name(dtype)), matrix, dtype});
    tensors.push_back({"odd." + std::string(dtype_name(dtype)), odd, DType::f32});
  }
  write_gguf(scratch / "m.gguf", {}, tensors);
  const GgufFile file(scratch / "m.gguf");  // which checks offsets against the alignment
  EXPECT_EQ(std::filesystem::file_size(scratch / "m.gguf") % 32, 0U);
  const std::vector<float> values = decode(matrix);
  for (const GgufTensor& written : tensors) {
    const Tensor& read = file.tensors().at(written.name);
    EXPECT_EQ(read.dtype, written.dtype);
    EXPECT_EQ(read.shape, written.tensor.shape);
    if (written.name.starts_with("odd")) {
      EXPECT_EQ(decode(read), decode(odd));
      continue;
    }
    const float step = written.dtype == DType::q4_0 ? 0.3F : 0.02F;  // of values up to 3 and a bit
    const std::vector<float> back = decode(read);
    for (std::size_t i = 0; i < back.size(); ++i) EXPECT_NEAR(back[i], values[i], step) << written.name;
  }
}

TEST(GgufWrite, HeadsAreInterleavedAsLlamaCppsConverterDoes) {
  const test::Scratch scratch;
  const TensorMap oracle = read_safetensors(data / "interleaved.safetensors");
  write_gguf(scratch / "m.gguf", {}, one(oracle.at("huggingface"), DType::f32, 3));
  EXPECT_EQ(decode(GgufFile(scratch / "m.gguf").tensors().at("t")), decode(oracle.at("stored")));
  // A tensor that lies so already is copied, and one that the file wants in the other order is put back.
  Tensor stored = oracle.at("stored");
  stored.interleaved_heads = 3;
  write_gguf(scratch / "same.gguf", {}, one(stored, DType::f32, 3));
  EXPECT_EQ(decode(GgufFile(scratch / "same.gguf").tensors().at("t")), decode(oracle.at("stored")));
  write_gguf(scratch / "back.gguf", {}, one(stored, DType::f32));
  EXPECT_EQ(decode(GgufFile(scratch / "back.gguf").tensors().at("t")), decode(oracle.at("huggingface")));
}

TEST(GgufWrite, WhatIsNoNumberIsNotWritten) {
  const test::Scratch scratch;
  const auto refusal = [&](float value, DType dtype) {
    std::vector<float> values(32, 1.0F);
    values[3] = value;
    const std::string text = message([&] {
      write_gguf(scratch / "m.gguf", {}, one(make_tensor(DType::f32, {1, 32}, values), dtype));
    });
    EXPECT_TRUE(std::filesystem::is_empty(scratch.path()));
    return text;
  };
  EXPECT_THAT(refusal(NAN, DType::f32), HasSubstr("m.gguf: tensor 't' would hold a value that is no finite"));
  EXPECT_THAT(refusal(INFINITY, DType::q8_0), HasSubstr("as Q8_0"));
  EXPECT_THAT(refusal(1e6F, DType::f16), HasSubstr("F16 is too narrow"));
  EXPECT_THAT(refusal(1e9F, DType::q4_0), HasSubstr("as Q4_0"));
}

TEST(GgufWrite, RowsThatAreNoWholeBlocksAndNamesTwiceAreRefused) {
  const test::Scratch scratch;
  EXPECT_THAT(message([&] { write_gguf(scratch / "m.gguf", {}, one(random_matrix(2, 40), DType::q8_0)); }),
              HasSubstr("rows of 40 elements"));
  const GgufTensor tensor = one(random_matrix(1, 4), DType::f32)[0];
  EXPECT_THAT(message([&] {
                write_gguf(scratch / "m.gguf", {}, {tensor, tensor});
              }),
              HasSubstr("two tensors are named 't'"));
  EXPECT_TRUE(std::filesystem::is_empty(scratch.path()));
}

}  // namespace
}  // namespace fathom
