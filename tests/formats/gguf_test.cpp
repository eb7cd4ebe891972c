#include "formats/gguf.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <fstream>

#include "base/error.h"
#include "base/file.h"
#include "damage.h"
#include "gguf_writer.h"
#include "message.h"
#include "scratch.h"

namespace fathom {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;
using Writer = test::GgufWriter;

const std::filesystem::path data = std::filesystem::path(FATHOM_TEST_DATA) / "formats";

TEST(Gguf, ReadsEveryTypeOfMetadataThatGgufPyWrote) {
  const GgufFile file(data / "metadata.gguf");
  constexpr std::int64_t most = std::numeric_limits<std::int64_t>::max();
  EXPECT_EQ(file.string("general.architecture"), "llama");
  EXPECT_EQ(file.integer("u8", 0, most), 200);
  EXPECT_EQ(file.integer("i8", -most, most), -100);
  EXPECT_EQ(file.integer("u16", 0, most), 60000);
  EXPECT_EQ(file.integer("i16", -most, most), -30000);
  EXPECT_EQ(file.integer("u32", 0, most), 4000000000);
  EXPECT_EQ(file.integer("i32", -most, most), -2000000000);
  EXPECT_EQ(file.integer("i64", -most, most), -(std::int64_t{1} << 62));
  EXPECT_EQ(std::get<std::uint64_t>(file.metadata().at("u64")), ~std::uint64_t{0});
  EXPECT_EQ(file.number("f32"), static_cast<double>(0.1F));
  EXPECT_EQ(file.number("f64"), 1e300);
  EXPECT_EQ(file.number("u8"), 200);
  EXPECT_TRUE(std::get<bool>(file.metadata().at("yes")));
  EXPECT_FALSE(std::get<bool>(file.metadata().at("no")));
  EXPECT_EQ(file.string("string"), "Grüße, 世界");
  EXPECT_THAT(file.strings("strings"), ElementsAre("a", "", "Ġthe"));
  EXPECT_THAT(file.integers("integers"), ElementsAre(1, -2, 3));
  EXPECT_THAT(file.integers("booleans"), ElementsAre(1, 0, 1));
  EXPECT_THAT(file.numbers("floats"), ElementsAre(0.5, -1.5));
  EXPECT_TRUE(file.has("u8"));
  EXPECT_FALSE(file.has("u9"));
}

TEST(Gguf, GettersNameFileAndKey) {
  const GgufFile file(data / "metadata.gguf");
  EXPECT_THAT(message([&] { static_cast<void>(file.integer("u8", 1, 99)); }),
              HasSubstr("metadata.gguf: metadata \"u8\" is 200, expected 1 to 99"));
  EXPECT_THAT(message([&] { static_cast<void>(file.integer("none", 1, 99)); }),
              HasSubstr("metadata \"none\" is missing, expected a whole number"));
  EXPECT_THAT(message([&] { static_cast<void>(file.string("u8")); }), HasSubstr("\"u8\" is of another type"));
  EXPECT_THAT(message([&] { static_cast<void>(file.integer("u64", 0, 9)); }),
              HasSubstr("\"u64\" is of another type"));
}

TEST(Gguf, TensorsHaveTheirShapesOutermostFirst) {
  const GgufFile file(data / "metadata.gguf");
  EXPECT_EQ(file.tensors().size(), 3U);
  EXPECT_THAT(decode(file.tensors().at("vector")), ElementsAre(0, 1, 2, 3, 4));
  EXPECT_EQ(file.tensors().at("matrix").shape, (Shape{2, 3}));
  EXPECT_THAT(decode(file.tensors().at("matrix")), ElementsAre(0, 1, 2, 3, 4, 5));
  EXPECT_EQ(file.tensors().at("blocks").dtype, DType::q8_0);
  EXPECT_THAT(decode(file.tensors().at("blocks")), testing::Each(testing::FloatNear(1, 1e-3)));
}

class GgufLies : public testing::Test {
 protected:
  /// The error, or "loaded".
  std::string load(const Writer& writer) {
    write_file(path, writer.bytes());
    try {
      const GgufFile file(path);
    } catch (const Error& e) {
      EXPECT_THAT(e.what(), HasSubstr("lie.gguf: "));
      return e.what();
    }
    return "loaded";
  }

  static constexpr std::uint32_t u8 = 0, u16 = 2, u32 = 4, i32 = 5, i64 = 11, boolean = 7, string = 8,
                                 array = 9, u64 = 10;
  static constexpr std::uint32_t f32 = 0, q4_0 = 2, iq2_xxs = 16;
  test::Scratch scratch;
  std::filesystem::path path = scratch / "lie.gguf";
};

TEST_F(GgufLies, AnHonestFileLoads) {
  EXPECT_EQ(load(Writer()
                     .header(1, 1)
                     .text("k")
                     .number(u8)
                     .number<std::uint8_t>(5)
                     .tensor("t", {8}, f32, 0)
                     .data(32)),
            "loaded");
  EXPECT_EQ(load(Writer().header(1, 0, 2).tensor("t", {8}, f32, 0).data(32)), "loaded");
  EXPECT_EQ(load(Writer().header(0, 0)), "loaded");
}

TEST_F(GgufLies, OtherVersionsAndOrdersOfBytesAreRefusedByName) {
  EXPECT_THAT(load(Writer().header(0, 0, 1)), HasSubstr("GGUF version 1, expected 2 or 3"));
  EXPECT_THAT(load(Writer().header(0, 0, 4)), HasSubstr("GGUF version 4"));
  EXPECT_THAT(load(Writer().header(0, 0, 0x03000000)), HasSubstr("big-endian"));
  EXPECT_THAT(load(Writer().text("not at all")), HasSubstr("not a GGUF file"));
}

TEST_F(GgufLies, CountsAreHeldAgainstTheFile) {
  constexpr std::uint64_t huge = std::uint64_t{1} << 60;
  EXPECT_THAT(load(Writer().header(huge, 0)), HasSubstr("the number of tensors is 1152921504606846976"));
  EXPECT_THAT(load(Writer().header(0, huge)), HasSubstr("the number of metadata keys is"));
  EXPECT_THAT(load(Writer().header(0, 1).number(huge).data(32)), HasSubstr("a metadata key is"));
  EXPECT_THAT(load(Writer().header(0, 1).text("k").number(string).number(huge)),
              HasSubstr("metadata \"k\" is 1152921"));
  EXPECT_THAT(load(Writer().header(0, 1).text("k").number(array).number(u64).number(huge).data(32)),
              HasSubstr("metadata \"k\" is 1152921504606846976, more than the"));
  EXPECT_THAT(load(Writer().header(0, 1).text("k").number(array).number(string).number(~std::uint64_t{0})),
              HasSubstr("metadata \"k\""));
}

TEST_F(GgufLies, MetadataThatMakeNoSenseAreRefused) {
  EXPECT_THAT(
      load(Writer().header(0, 1).text("k").number(array).number(array).number(std::uint64_t{1}).data(32)),
      HasSubstr("metadata \"k\" is an array of arrays"));
  EXPECT_THAT(load(Writer().header(0, 1).text("k").number(13U).data(32)), HasSubstr("unknown type 13"));
  EXPECT_THAT(load(Writer().header(0, 1).text("k").number(array).number(99U).data(32)),
              HasSubstr("array of unknown type 99"));
  EXPECT_THAT(load(Writer().header(0, 1).text("k").number(boolean).number<std::uint8_t>(2)),
              HasSubstr("is 2, expected 0 or 1"));
  EXPECT_THAT(load(Writer().header(0, 1).text("").number(u32).data(32)),
              HasSubstr("a metadata key has 0 bytes"));
  Writer twice;
  twice.header(0, 2);
  for (int i = 0; i < 2; ++i) twice.text("k").number(u32).number(7U);
  EXPECT_THAT(load(twice), HasSubstr("metadata \"k\" occurs twice"));
  for (const std::uint32_t alignment : {0U, 24U, 0x80000000U}) {
    EXPECT_THAT(load(Writer().header(0, 1).text("general.alignment").number(u32).number(alignment)),
                HasSubstr("\"general.alignment\" is"));
  }
  EXPECT_THAT(load(Writer().header(0, 1).text("a\x1b[31m\xff").number(13U).data(32)),
              HasSubstr("\"a\\u001b[31m"));
}

TEST_F(GgufLies, TensorsThatMakeNoSenseAreRefusedByName) {
  const auto one = [&](const std::vector<std::uint64_t>& sizes, std::uint32_t type, std::uint64_t offset) {
    return load(Writer().header(1, 0).tensor("t", sizes, type, offset).data(64));
  };
  EXPECT_EQ(one({16}, f32, 0), "loaded");
  EXPECT_THAT(one({17}, f32, 0), HasSubstr("tensor \"t\" takes 68 bytes from 0 on, but the file has 64"));
  EXPECT_THAT(one({1}, f32, 64), HasSubstr("takes 4 bytes from 64 on"));
  EXPECT_THAT(one({1}, f32, ~std::uint64_t{31}), HasSubstr("takes 4 bytes from 18446744073709551584 on"));
  EXPECT_THAT(one({1}, f32, 16), HasSubstr("has offset 16, expected a multiple of 32"));
  EXPECT_THAT(one({}, f32, 0), HasSubstr("has 0 dimensions"));
  EXPECT_THAT(one({1, 1, 1, 1, 1}, f32, 0), HasSubstr("has 5 dimensions"));
  EXPECT_THAT(one({0}, f32, 0), HasSubstr("dimension 0 of size 0"));
  EXPECT_THAT(one({std::uint64_t{1} << 32, std::uint64_t{1} << 32}, f32, 0),
              HasSubstr("dimension 1 of size 4294967296"));
  EXPECT_THAT(one({std::uint64_t{1} << 62}, f32, 0), HasSubstr("impossible"));
  EXPECT_THAT(one({~std::uint64_t{0}}, f32, 0), HasSubstr("dimension 0 of size -1"));
  EXPECT_THAT(one({256}, iq2_xxs, 0), HasSubstr("tensor \"t\" is of type IQ2_XXS, which is not supported"));
  EXPECT_THAT(one({256}, 77, 0), HasSubstr("is of type 77"));
  EXPECT_THAT(one({33, 1}, q4_0, 0), HasSubstr("rows of a multiple of 32"));
  EXPECT_THAT(one({32}, q4_0, 0), HasSubstr("Q4_0 is for matrices"));
  EXPECT_THAT(load(Writer().header(2, 0).tensor("a", {9}, f32, 0).tensor("b", {1}, f32, 32).data(64)),
              HasSubstr("tensor \"b\" has offset 32, expected a multiple of 32 from 36 on"));
  EXPECT_THAT(load(Writer().header(2, 0).tensor("a", {8}, f32, 0).tensor("a", {8}, f32, 32).data(64)),
              HasSubstr("tensor \"a\" occurs twice"));
}

TEST_F(GgufLies, MinusOneIsNoSpecialToken) {
  const auto token = [&](const std::string& key, std::uint32_t type, auto value) {
    write_file(path, Writer()
                         .header(0, 2)
                         .text("tokenizer.ggml.tokens")
                         .number(array)
                         .number(string)
                         .number(std::uint64_t{1})
                         .text("a")
                         .text(key)
                         .number(type)
                         .number(value)
                         .bytes());
    return GgufFile(path).special_token("eos");
  };
  const std::string key = "tokenizer.ggml.eos_token_id";
  EXPECT_EQ(token(key, u32, 0U), 0);
  EXPECT_EQ(token(key, u32, 0xFFFFFFFFU), std::nullopt);
  EXPECT_EQ(token(key, i32, -1), std::nullopt);
  EXPECT_EQ(token(key, i64, std::int64_t{-1}), std::nullopt);
  EXPECT_EQ(token(key, u64, ~std::uint64_t{0}), std::nullopt);
  EXPECT_EQ(token("tokenizer.ggml.bos_token_id", u32, 0U), std::nullopt);
  EXPECT_THROW(token(key, u32, 1U), Error);  // there is one token
  EXPECT_THROW(token(key, i32, -2), Error);
}

/// Two parts, the first without tensors, as llama-gguf-split --no-tensor-first-split writes.
class GgufParts : public GgufLies {
 protected:
  static Writer part(std::uint16_t number, std::uint16_t count, std::uint64_t tensors) {
    Writer writer;
    writer.header(tensors, 3);
    writer.text("split.no").number(u16).number(number);
    writer.text("split.count").number(u16).number(count);
    writer.text("split.tensors.count").number(i32).number(2);
    return writer;
  }
  static Writer with_tensors(std::uint16_t number, std::uint16_t count = 2) {
    return part(number, count, 2).tensor("a", {8}, f32, 0).tensor("b", {8}, f32, 32).data(64);
  }
  std::string read(const std::string& name) {
    try {
      return fmt::format("{} tensors", GgufFile(scratch / name).tensors().size());
    } catch (const Error& e) {
      return e.what();
    }
  }
  void write(const std::string& name, const Writer& writer) { write_file(scratch / name, writer.bytes()); }

  const std::string first = "m-00001-of-00002.gguf", second = "m-00002-of-00002.gguf";
};

TEST_F(GgufParts, AnyPartIsTheWholeModel) {
  write(first, part(0, 2, 0));
  write(second, with_tensors(1));
  EXPECT_EQ(read(first), "2 tensors");
  EXPECT_EQ(read(second), "2 tensors");
  EXPECT_EQ(GgufFile(scratch / second).path(), scratch / first);
  EXPECT_EQ(GgufFile(scratch / second).integer("split.no", 0, 9), 0);  // the first part's metadata
}

TEST_F(GgufParts, APartThatIsMissingOrIsNoneIsNamed) {
  write(second, with_tensors(1));
  EXPECT_THAT(read(second), HasSubstr("m-00001-of-00002.gguf is missing: it is part 1 of 2"));
  write(first, with_tensors(0));
  EXPECT_THAT(read(first), HasSubstr("m-00002-of-00002.gguf: tensor \"a\" is in an earlier part, too"));
  write(first, part(1, 2, 0));
  EXPECT_THAT(read(second), HasSubstr("m-00001-of-00002.gguf: metadata \"split.no\" is 1, expected"));
  write(first, part(0, 3, 0));
  EXPECT_THAT(read(second), HasSubstr("m-00001-of-00002.gguf: metadata \"split.count\" is 3, expected"));
  write(first, part(0, 2, 0));
  write(second, part(1, 2, 1).tensor("a", {8}, f32, 0).data(32));
  EXPECT_THAT(read(first), HasSubstr("\"split.tensors.count\" is 2, but the 2 parts hold 1 tensors"));
  write("other.gguf", part(0, 2, 0));
  EXPECT_THAT(read("other.gguf"), HasSubstr("if its name ends in -00001-of-00002.gguf"));
  write("one.gguf", with_tensors(0, 1));
  EXPECT_EQ(read("one.gguf"), "2 tensors");
}

TEST(Gguf, DamagedFilesLoadOrAreRefused) {
  const test::Scratch scratch;
  const auto path = scratch / "damaged.gguf";
  const auto load = [&] {
    const GgufFile file(path);
    for (const auto& [name, tensor] : file.tensors()) decode(tensor);
  };
  const std::string original = read_file(data / "metadata.gguf");
  // The writer pads the last tensor to the alignment; without the padding the file still holds everything.
  const auto padding = static_cast<int>(original.size()) % 64 == 0 ? 64 : 0;
  EXPECT_LT(test::expect_survives_truncation(path, original, load), padding);
  EXPECT_GT(test::expect_survives_damage(path, original, 4000, load), 0);
  EXPECT_GT(test::expect_survives_damage(path, read_file(data / "types.gguf"), 1000, load), 0);
}

TEST(Gguf, IsKnownByItsMagic) {
  const test::Scratch scratch;
  EXPECT_TRUE(is_gguf(data / "types.gguf"));
  EXPECT_FALSE(is_gguf(data / "single.safetensors"));
  EXPECT_FALSE(is_gguf(data));
  EXPECT_THROW(is_gguf(scratch / "absent"), Error);
}

}  // namespace
}  // namespace fathom
