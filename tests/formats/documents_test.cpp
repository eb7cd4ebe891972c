#include "formats/documents.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <zstd.h>

#include "base/error.h"
#include "base/file.h"
#include "damage.h"
#include "formats/utf8.h"
#include "scratch.h"

namespace fathom {
namespace {

using testing::ElementsAre;
using testing::EndsWith;
using testing::HasSubstr;

std::string compressed(std::string_view text) {
  std::string out(ZSTD_compressBound(text.size()), '\0');
  out.resize(ZSTD_compress(out.data(), out.size(), text.data(), text.size(), 3));
  return out;
}

class Documents : public testing::Test {
 protected:
  std::filesystem::path file(const std::string& name, std::string_view content) {
    write_file(scratch / name, content);
    return scratch / name;
  }

  static std::vector<std::string> all(const std::vector<std::filesystem::path>& files,
                                      const std::string& field = "text") {
    std::vector<std::string> documents;
    for_each_document(files, field, [&](std::string&& text) {
      documents.push_back(std::move(text));
      return true;
    });
    return documents;
  }

  static std::string message(const std::filesystem::path& path) {
    try {
      all({path});
    } catch (const Error& e) {
      return e.what();
    }
    return "no error";
  }

  test::Scratch scratch;
};

TEST_F(Documents, PlainTextIsOneDocumentAndJsonLinesAreMany) {
  const auto plain = file("a.txt", "one\ntwo\n");
  const auto lines =
      file("b.jsonl",
           "{\"text\": \"x\", \"meta\": {\"text\": [1, \"no\"]}}\r\n\n{\"id\": 7, \"text\": \"\\u00e9\\n\"}");
  EXPECT_THAT(all({plain, lines}), ElementsAre("one\ntwo\n", "x", "é\n"));
  EXPECT_THAT(all({file("c.ndjson", "{\"body\": \"y\"}\n")}, "body"), ElementsAre("y"));
  EXPECT_EQ(read_text(lines), "x\n\né\n");
}

TEST_F(Documents, ZstdOfEitherIsReadAlsoInSeveralFrames) {
  EXPECT_THAT(all({file("a.txt.zst", compressed("one\n"))}), ElementsAre("one\n"));
  const auto lines =
      file("b.jsonl.zst", compressed("{\"text\": \"x\"}\n{\"te") + compressed("xt\": \"y\"}\n"));
  EXPECT_THAT(all({lines}), ElementsAre("x", "y"));
}

TEST_F(Documents, TextsAreWholeWhateverTheBuffersSize) {
  const std::size_t buffer = ZSTD_DStreamOutSize();
  for (const std::size_t size : {buffer - 1, buffer, buffer + 1, 3 * buffer}) {
    std::string text(size, 'x');
    for (std::size_t i = 0; i < size; i += 7) text[i] = static_cast<char>('a' + i % 26);
    EXPECT_EQ(read_text(file("t.txt", text)), text);
    EXPECT_EQ(read_text(file("t.txt.zst", compressed(text))), text);
    EXPECT_EQ(read_text(file("t.jsonl.zst", compressed("{\"text\": \"" + text + "\"}"))), text);
  }
}

TEST_F(Documents, ReadingEndsWhenTheTakerHasEnough) {
  const auto lines = file("b.jsonl", "{\"text\": \"x\"}\n{\"text\": \"y\"}\nnot JSON\n");
  int taken = 0;
  for_each_document({lines, scratch / "absent"}, "text", [&](std::string&&) { return ++taken < 2; });
  EXPECT_EQ(taken, 2);
}

TEST_F(Documents, ErrorsNameFileAndLine) {
  const std::string good = "{\"text\": \"x\"}\n";
  EXPECT_THAT(message(file("a.jsonl", good + "{\"text\": }\n")),
              EndsWith("a.jsonl: line 2: not valid JSON from its byte 10 on"));
  EXPECT_THAT(message(file("a.jsonl", good + "\n{\"body\": \"x\"}")),
              EndsWith("a.jsonl: line 3: field 'text' is missing"));
  EXPECT_THAT(message(file("a.jsonl", "{\"text\": 5}")),
              EndsWith("a.jsonl: line 1: field 'text' is a number, expected a string"));
  EXPECT_THAT(message(file("a.jsonl", "{\"text\": [\"x\"]}")),
              EndsWith("field 'text' is a list, expected a string"));
  EXPECT_THAT(message(file("a.jsonl", "[\"text\", \"x\"]")),
              EndsWith("line 1: expected an object with field 'text'"));
  EXPECT_THAT(message(file("a.jsonl", good + "{\"text\": \"\xff\"}")),
              EndsWith("a.jsonl: line 2: its byte 10 is not valid UTF-8"));
  EXPECT_THAT(message(file("a.jsonl", std::string(1'000'000, '['))), HasSubstr("line 1: not valid JSON"));
  EXPECT_THAT(message(file("a.jsonl", " \n\n")), EndsWith("a.jsonl: empty, expected one JSON object a line"));
  EXPECT_THAT(message(file("a.txt", "")), EndsWith("a.txt: empty, expected text"));
  EXPECT_THAT(message(file("a.txt.zst", "")), EndsWith("a.txt.zst: empty, expected text"));
  EXPECT_THAT(message(file("a.txt", "ab\xc3")), HasSubstr("a.txt: byte 2 is not valid UTF-8"));
  EXPECT_THAT(message(scratch / "absent"), HasSubstr("absent: cannot open"));
  EXPECT_THAT(message(scratch.path()), HasSubstr("a directory"));
}

TEST_F(Documents, TornAndFalseZstdIsRefused) {
  const std::string whole = compressed("some text, long enough");
  for (std::size_t length = 1; length < whole.size(); ++length) {
    EXPECT_THAT(message(file("a.txt.zst", std::string_view(whole).substr(0, length))),
                HasSubstr("a.txt.zst: "))
        << length;
  }
  EXPECT_THAT(message(file("a.txt.zst", "plain")), HasSubstr("a.txt.zst: not valid zstd"));
}

TEST_F(Documents, ALineThatUnpacksToMoreThanItMayIsRefused) {
  const std::string bomb = compressed(std::string((std::size_t{256} << 20) + 1, 'x'));
  EXPECT_LT(bomb.size(), 100'000U);
  EXPECT_THAT(message(file("bomb.jsonl.zst", bomb)),
              HasSubstr("bomb.jsonl.zst: line 1 is longer than 256 MB"));
}

TEST_F(Documents, DamagedFilesAreReadOrRefused) {
  std::string lines;
  for (int i = 0; i < 20; ++i)
    lines += "{\"id\": " + std::to_string(i) + ", \"text\": \"Grüße \\ud83d\\ude00\"}\n";
  for (const auto& [name, content] :
       {std::pair{"a.jsonl", lines}, {"a.jsonl.zst", compressed(lines)}, {"a.txt", lines}}) {
    const auto path = scratch / name;
    EXPECT_GT(test::expect_survives_damage(path, content, 1500, [&] { all({path}); }), 0) << name;
  }
}

TEST(Utf8, TheFirstBadByteIsFound) {
  const auto bad = [](std::string_view text) { return find_invalid_utf8(text); };
  for (const std::string_view good :
       {"", "plain", "é", "\xed\x9f\xbf", "\xee\x80\x80", "\xf4\x8f\xbf\xbf", "12345678é12345678世"}) {
    EXPECT_EQ(bad(good), std::nullopt) << good;
  }
  const std::string_view ill[] = {"\x80",
                                  "\xc3",
                                  "\xc0\x80",
                                  "\xc1\xbf",
                                  "\xe0\x9f\xbf",
                                  "\xed\xa0\x80",
                                  "\xf0\x8f\xbf\xbf",
                                  "\xf4\x90\x80\x80",
                                  "\xf5\x80\x80\x80",
                                  "\xff",
                                  "\xe4\xb8",
                                  "\xc3(",
                                  "\xf0\x9f\x98("};
  for (const std::string_view text : ill) {
    EXPECT_EQ(bad(text), 0U) << testing::PrintToString(text);
    EXPECT_EQ(bad("123456789" + std::string(text)), 9U) << testing::PrintToString(text);
  }
}

}  // namespace
}  // namespace fathom
