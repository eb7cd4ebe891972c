#include "formats/gguf.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <fstream>

#include "base/error.h"
#include "base/file.h"
#include "damage.h"
#include "scratch.h"

namespace fathom {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;

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
  const auto message = [](auto&& action) -> std::string {
    try {
      action();
    } catch (const Error& e) {
      return e.what();
    }
    return "no error";
  };
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

/// Builds GGUF files that no honest writer would.
class Writer {
 public:
  template <typename Number>
  Writer& number(Number value) {
    bytes_.append(reinterpret_cast<const char*>(&value), sizeof value);
    return *this;
  }
  Writer& text(std::string_view value) {
    number<std::uint64_t>(value.size());
    bytes_ += value;
    return *this;
  }
  Writer& header(std::uint64_t tensors, std::uint64_t keys, std::uint32_t version = 3) {
    bytes_ += "GGUF";
    return number(version).number(tensors).number(keys);
  }
  Writer& tensor(std::string_view name, const std::vector<std::uint64_t>& sizes, std::uint32_t type,
                 std::uint64_t offset) {
    text(name).number(static_cast<std::uint32_t>(sizes.size()));
    for (const std::uint64_t size : sizes) number(size);
    return number(type).number(offset);
  }
  /// To the next multiple of 32, then `size` zero bytes.
  Writer& data(std::size_t size) {
    bytes_.resize((bytes_.size() + 31) / 32 * 32 + size);
    return *this;
  }
  const std::string& bytes() const { return bytes_; }

 private:
  std::string bytes_;
};

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

  static constexpr std::uint32_t u8 = 0, u32 = 4, boolean = 7, string = 8, array = 9, u64 = 10;
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
