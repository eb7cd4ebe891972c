#include "base/file.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <fstream>
#include <vector>

#include "base/error.h"
#include "base/json.h"

namespace fathom {
namespace {

std::filesystem::path scratch() {
  auto path = std::filesystem::temp_directory_path() / ("fathom_base_" + std::to_string(::getpid()));
  std::filesystem::create_directories(path);
  return path;
}

TEST(File, AnAtomicFileThatIsNotCommittedLeavesTheOldContent) {
  const auto path = scratch() / "a";
  write_file(path, "old");
  { AtomicFile(path).write("new"); }
  EXPECT_EQ(read_file(path), "old");
  EXPECT_FALSE(std::filesystem::exists(path.string() + ".part"));
  write_file(path, "new");
  EXPECT_EQ(read_file(path), "new");
}

TEST(File, ADeviceIsWrittenNotReplaced) {
  const auto path = scratch() / "pipe";
  ASSERT_EQ(::mkfifo(path.c_str(), 0600), 0);
  const int reader = ::open(path.c_str(), O_RDONLY | O_NONBLOCK);
  write_file(path, "text");
  char got[8] = {};
  EXPECT_EQ(::read(reader, got, sizeof got), 4);
  ::close(reader);
  EXPECT_TRUE(std::filesystem::is_fifo(path));
  std::filesystem::remove(path);
}

TEST(File, PagesGivenBackAreReadAgain) {
  const auto path = scratch() / "pages";
  write_file(path, std::string(50'000, 'x'));
  const MappedFile file(path);
  release_pages(file.bytes().subspan(100, 40'000));
  EXPECT_EQ(std::ranges::count(file.bytes(), std::byte{'x'}), 50'000);
  std::vector<std::byte> own(50'000, std::byte{1});  // not a file's: stays
  release_pages(own);
  EXPECT_EQ(std::ranges::count(own, std::byte{1}), 50'000);
}

TEST(File, MappedBytesSayWhereTheyAreFrom) {
  const auto path = scratch() / "from";
  write_file(path, "0123456789");
  const MappedFile file(path);
  const std::string whole = mapped_from(file.bytes()), part = mapped_from(file.bytes().subspan(2, 3));
  EXPECT_NE(whole.find(path.filename().string()), std::string::npos);
  EXPECT_NE(whole, part);
  EXPECT_EQ(mapped_from(MappedFile(path).bytes()), whole);
  const std::string own = "0123456789";
  EXPECT_EQ(mapped_from(std::as_bytes(std::span(own))), "");
  write_file(path, "0123456789");  // another file of the same name and content
  EXPECT_NE(mapped_from(MappedFile(path).bytes()), whole);
}

TEST(File, MappingAnEmptyFileGivesNoBytesAndAFolderIsRefused) {
  const auto path = scratch() / "empty";
  std::ofstream(path).close();
  EXPECT_TRUE(MappedFile(path).bytes().empty());
  EXPECT_THROW(MappedFile{scratch()}, Error);
}

TEST(Json, ErrorsNameFileFieldAndWhatWasFound) {
  const Json json = parse_json(R"({"a":{"n":-3,"s":"x"}})", "c.json");
  const JsonObject root(json, "c.json");
  try {
    root.object("a").integer("n", 1, 9);
    FAIL();
  } catch (const Error& e) {
    EXPECT_STREQ(e.what(), "c.json: field 'a.n' is -3, expected a whole number from 1 to 9");
  }
  EXPECT_THROW(root.object("a").integer("s", 0, 9), Error);
  EXPECT_THROW(root.object("missing"), Error);
}

TEST(Json, AnObjectOfVeryManyKeysIsAnErrorAndNoHang) {
  std::string text = "{";
  for (int i = 0; i < 20'001; ++i) text += (i > 0 ? ",\"" : "\"") + std::to_string(i) + "\":[{}]";
  EXPECT_THROW(parse_json(text + "}", "c.json"), Error);
  EXPECT_EQ(parse_json(R"([{"a":{"b":1,"c":2}},{"a":3}])", "c.json")[0]["a"]["c"], 2);
}

TEST(Json, DeepNestingAndLongTokensAreShortErrors) {
  const auto message = [](const std::string& text) -> std::string {
    try {
      parse_json(text, "c.json");
    } catch (const Error& e) {
      return e.what();
    }
    return "";
  };
  const auto nested = [](int levels) { return std::string(levels, '[') + std::string(levels, ']'); };
  EXPECT_EQ(message(nested(200)), "");
  EXPECT_EQ(message(nested(100'000)), "c.json: nested deeper than 200 levels");
  EXPECT_EQ(message("[\"" + nested(1000) + "\\\"" + nested(1000) + "\"]"), "");  // brackets in a string
  EXPECT_EQ(message("[1,").find("c.json: not valid JSON: at line 1, column 4"), 0);
  EXPECT_LT(message("[\"" + std::string(100'000, 'x')).size(), 300);
}

}  // namespace
}  // namespace fathom
