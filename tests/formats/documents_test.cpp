#include "formats/documents.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <zstd.h>

#include "base/error.h"
#include "base/file.h"
#include "base/json.h"
#include "base/progress.h"
#include "damage.h"
#include "formats/utf8.h"
#include "scratch.h"

namespace fathom {
namespace {

using testing::AllOf;
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
  void SetUp() override { set_quiet(true); }

  std::filesystem::path file(const std::string& name, std::string_view content) {
    write_file(scratch / name, content);
    return scratch / name;
  }

  static std::vector<std::string> all(const std::vector<std::filesystem::path>& files,
                                      const TextReading& reading = {.field = "text"}) {
    std::vector<std::string> documents;
    for_each_document(files, reading, [&](std::string&& text) {
      documents.push_back(std::move(text));
      return true;
    });
    return documents;
  }

  static std::string message(const std::filesystem::path& path,
                             const TextReading& reading = {.field = "text"}) {
    try {
      all({path}, reading);
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
  EXPECT_THAT(all({file("c.ndjson", "{\"body\": \"y\"}\n")}, {.field = "body"}), ElementsAre("y"));
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
  for_each_document({lines, scratch / "absent"}, {.field = "text"},
                    [&](std::string&&) { return ++taken < 2; });
  EXPECT_EQ(taken, 2);
}

TEST_F(Documents, ErrorsNameFileAndLine) {
  const std::string good = "{\"text\": \"x\"}\n";
  EXPECT_THAT(message(file("a.jsonl", good + "{\"text\": }\n")),
              EndsWith("a.jsonl: line 2: not valid JSON from its byte 10 on"));
  EXPECT_THAT(message(file("a.jsonl", good + "\n{\"body\": \"x\"}")),
              EndsWith("a.jsonl: line 3: field 'text' is missing; it has 'body'"));
  EXPECT_THAT(message(file("a.jsonl", "{\"text\": 5}")),
              EndsWith("a.jsonl: line 1: field 'text' is a number, expected a string"));
  EXPECT_THAT(message(file("a.jsonl", "{\"text\": [\"x\"]}")),
              HasSubstr("field 'text' is no conversation, expected a list of messages"));
  EXPECT_THAT(message(file("a.jsonl", "[\"text\", \"x\"]")),
              EndsWith("line 1: not valid records of JSON: '\"' after 0 of them, expected an object"));
  EXPECT_THAT(message(file("a.jsonl", good + "{\"text\": \"\xff\"}")),
              EndsWith("a.jsonl: line 2: its byte 10 is not valid UTF-8"));
  EXPECT_THAT(message(file("a.jsonl", std::string(1'000'000, '['))),
              HasSubstr("line 1: not valid records of JSON: '['"));
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
       {std::pair{"a.jsonl", lines},
        {"a.jsonl.zst", compressed(lines)},
        {"a.txt", "A text.\n" + lines},
        {"a.json", "[" + lines.substr(0, lines.find('\n')) + ", {\n\"text\": \"x\"}]"}}) {
    const auto path = scratch / name;
    EXPECT_GT(test::expect_survives_damage(path, content, 1500, [&] { all({path}); }), 0) << name;
  }
}

TEST_F(Documents, RecordsAreFoundWhateverTheFileIsCalled) {
  const std::string lines = "{\"text\": \"one\"}\n{\"text\": \"two\"}\n";
  const std::string list =
      " [\n {\"id\": 1, \"text\": \"one\"}, {\"text\":\n \"two\", \"tags\": [\"]\", \"\\\"}\"]}]\n";
  const std::string spread = "{\n  \"text\": \"one\"\n}\n{\n  \"text\": \"two\"\n}\n";
  for (const std::string& content : {lines, list, spread, "\xef\xbb\xbf" + lines}) {
    for (const char* name :
         {"a.json", "A.JSON", "a.jsonl", "A.JSONL", "a.JsonLines", "a.NDJSON", "a.txt", "a.md", "a"})
      EXPECT_THAT(all({file(name, content)}), ElementsAre("one", "two")) << name << content;
    for (const char* name : {"a.json.zst", "a.JSONL.ZST", "a.txt.zst", "a.zst", "a.json"})
      EXPECT_THAT(all({file(name, compressed(content))}), ElementsAre("one", "two")) << name << content;
  }
  EXPECT_THAT(all({file("one.json", "{\"text\": \"all of it\", \"n\": {\"text\": \"no\"}}")}),
              ElementsAre("all of it"));
}

TEST_F(Documents, RecordsAreThosePythonFinds) {
  const Json cases = read_json(FATHOM_TEST_DATA "/formats/records.json");
  for (const Json& one : cases) {
    const auto path = file("a.json", one["content"].get<std::string>());
    if (one["texts"].is_null()) {
      EXPECT_THROW(all({path}), Error) << one["content"];
    } else {
      EXPECT_EQ(all({path}), one["texts"].get<std::vector<std::string>>()) << one["content"];
    }
  }
}

TEST_F(Documents, TextThatBeginsLikeJsonStaysText) {
  for (const std::string text :
       {"{\n  int i = 0;\n}\n", "{ \"a\", \"b\" };\n", "[x] done\n[ ] to do\n", "[link](page.md)\n",
        "{% if x %}{{ y }}{% endif %}", "{}\n", "[1, 2]\n", "{'text': 'Python'}\n",
        "{\"text\": \"x\"} is how a record looks.\n", "[{\"text\": 1}](link)\n", "{\"text\": x}\n",
        "\"text\": \"x\"\n", "text,label\nx,1\n"}) {
    EXPECT_THAT(all({file("a.txt", text)}), ElementsAre(text));
    EXPECT_THAT(all({file("a.c", text)}), ElementsAre(text));
  }
}

TEST_F(Documents, TheUserHasTheLastWord) {
  const std::string lines = "{\"text\": \"one\"}\n";
  const TextReading text{.field = "text", .format = TextFormat::text};
  for (const char* name : {"a.txt", "a.json", "a.JSONL", "a.csv"})
    EXPECT_THAT(all({file(name, lines)}, text), ElementsAre(lines)) << name;
  const TextReading json{.field = "text", .format = TextFormat::json};
  EXPECT_THAT(all({file("a.csv", lines)}, json), ElementsAre("one"));
  EXPECT_THAT(message(file("a.txt", "plain"), json),
              EndsWith("a.txt: line 1: not valid JSON from its byte 1 on"));
  EXPECT_EQ(text_format("json"), TextFormat::json);
  EXPECT_THROW(text_format("csv"), UsageError);
}

TEST_F(Documents, OtherFormatsAreRefusedByName) {
  const auto refused = [&](const std::string& name, std::string_view content, const char* as,
                           const char* remedy) {
    EXPECT_THAT(message(file(name, content)),
                AllOf(HasSubstr(name + ": "), HasSubstr(as), HasSubstr(remedy)));
  };
  using namespace std::string_view_literals;
  refused("a.csv", "text,label\nx,1\n", "CSV", "JSON lines");
  refused("A.CSV.zst", compressed("text,label\nx,1\n"), "CSV", "--text-format text");
  refused("a.Tsv", "text\tlabel\n", "TSV", "JSON lines");
  refused("a.Parquet", "x", "Parquet", "JSON lines");
  refused("a.txt", "PAR1\x15\0\x15"sv, "Parquet", "JSON lines");
  refused("a.txt", "ARROW1\0\0"sv, "Arrow", "JSON lines");
  refused("a.jsonl.gz", "\x1f\x8b\x08\0"sv, "gzip", "unpack");
  refused("a.json", "PK\x03\x04\x14"sv, "ZIP", "unpack");
  refused("a.bz2", "BZh91AY&SY", "bzip2", "unpack");
  refused("a.xz", "\xfd\x37zXZ\0"sv, "xz", "unpack");
  refused("a.pdf", "%PDF-1.4\n", "PDF", "extract");
  refused("a.txt", "{\\rtf1 text}", "RTF", "extract");
  refused("a.txt", "\xff\xfeH\0i\0"sv, "UTF-16", "iconv");
  refused("a.txt", "\xfe\xff\0H\0i"sv, "UTF-16", "iconv");
  refused("a.txt", "\0H\0i\0!"sv, "UTF-16", "UTF-16BE");
  refused("a.jsonl", "{\0\"\0t\0\"\0:\0"sv, "UTF-16", "iconv");
  refused("a.txt", "MZ\x90\0\x03\0\0\0\x04\0"sv, "byte 3 is zero", "binary");
  EXPECT_THAT(all({file("a.txt", std::string(5000, 'x') + '\0' + "y")}),
              ElementsAre(std::string(5000, 'x') + '\0' + "y"));
}

TEST_F(Documents, WhatIsWrongWithRecordsIsSaid) {
  const std::string hint = "; --text-format text learns the file as it stands";
  EXPECT_THAT(message(file("a.json", "{\"a\": 1, \"b\": 2}")),
              EndsWith("a.json: line 1: field 'text' is missing; it has 'a', 'b'" + hint));
  EXPECT_THAT(message(file("a.txt", "{\"a\": 1}\n{\"a\": 2}\n")), EndsWith("it has 'a'" + hint));
  EXPECT_THAT(message(file("a.json", "plain text")),
              EndsWith("a.json: line 1: not valid JSON from its byte 1 on" + hint));
  EXPECT_THAT(message(file("a.json", "[{\"text\": \"x\"},\n {\"tex\": \"y\"}]")),
              EndsWith("a.json: record 2, line 2: field 'text' is missing; it has 'tex'"));
  EXPECT_THAT(message(file("a.json", "[\"x\"]")), HasSubstr("line 1: not valid records of JSON"));
  EXPECT_THAT(message(file("a.json", "[{\"text\": \"x\"} {\"text\": \"y\"}]")),
              EndsWith("expected a comma or the list's end"));
  EXPECT_THAT(message(file("a.json", "[{\"text\": \"x\"},]")),
              EndsWith("']' after 1 of them, expected an object"));
  EXPECT_THAT(message(file("a.json", "[{\"text\": \"x\"}] []")), EndsWith("expected nothing after the list"));
  EXPECT_THAT(message(file("a.json", "[{\"text\": \"x\"},\n")), HasSubstr("ends within its list"));
  EXPECT_THAT(message(file("a.json", "[{\"text\": \"x\"},\n{\"text\": \"y")),
              HasSubstr("record 2, line 2: not valid JSON: the file ends"));
  for (const char* empty : {"", " \n", "[]", "[ ]\n"})
    EXPECT_THAT(message(file("a.json", empty)), HasSubstr("a.json: empty")) << empty;
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
