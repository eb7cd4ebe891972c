// Tokens that files beside tokenizer.json name, against transformers (tests/oracle/make_companions.py).
#include "text/companion_tokens.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "base/error.h"
#include "base/file.h"
#include "damage.h"
#include "scratch.h"
#include "text/tokenizer.h"

namespace fathom {
namespace {

namespace fs = std::filesystem;
using testing::HasSubstr;

const fs::path data_folder = fs::path(FATHOM_TEST_DATA) / "tokenizers";

/// The tokenizer of `base` with other files beside it.
Tokenizer tokenizer_with(const std::string& base, const Json& files) {
  const test::Scratch folder;
  fs::copy_file(data_folder / base / "tokenizer.json", folder / "tokenizer.json");
  for (const auto& [name, content] : files.items()) write_file(folder / name, content.dump());
  return load_tokenizer(folder.path());
}

TEST(CompanionTokens, TextsBecomeTheIdsOfTransformers) {
  for (const Json& entry : read_json(data_folder / "companions.json")) {
    SCOPED_TRACE(entry["about"].get<std::string>());
    const Tokenizer tokenizer = tokenizer_with(entry["base"], entry["files"]);
    for (const auto& [name, text] : entry["special"].items())
      EXPECT_EQ(tokenizer.special_text(name), text.get<std::string>());
    for (const Json& text : entry["texts"]) {
      const auto ids = tokenizer.encode(text[0].get<std::string>(), false);
      EXPECT_EQ(ids, text[1].get<std::vector<Token>>()) << text;
      EXPECT_EQ(tokenizer.decode(ids, false), text[2].get<std::string>());
      EXPECT_EQ(tokenizer.decode(ids), text[3].get<std::string>());
    }
  }
}

// transformers 4 wrote these; 5 does not read them any more.
TEST(CompanionTokens, ObjectsOfOlderFilesAreRead) {
  const Json object = {{"content", "<x>"}, {"rstrip", true}, {"normalized", false}};
  for (const Json& files : {Json{{"special_tokens_map.json", {{"additional_special_tokens", {object}}}}},
                            Json{{"tokenizer_config.json", {{"pad_token", object}}}}}) {
    const Tokenizer tokenizer = tokenizer_with("gpt2", files);
    ASSERT_EQ(tokenizer.id("<x>"), 421) << files;
    EXPECT_TRUE(tokenizer.is_special(421));
    EXPECT_EQ(tokenizer.encode("<x>  a"), (std::vector<Token>{421, 64}));
  }
}

TEST(CompanionTokens, ErrorsNameFileAndField) {
  const auto message = [](const char* file, const Json& content) -> std::string {
    try {
      tokenizer_with("gpt2", {{file, content}});
    } catch (const Error& e) {
      return e.what();
    }
    return "no error";
  };
  EXPECT_THAT(message("tokenizer_config.json", {{"added_tokens_decoder", {{"1", "<x>"}}}}),
              HasSubstr("tokenizer_config.json: field 'added_tokens_decoder.1'"));
  EXPECT_THAT(message("tokenizer_config.json", {{"added_tokens_decoder", {{"one", {{"content", "<x>"}}}}}}),
              HasSubstr("field 'added_tokens_decoder.one' has a key that is no token id"));
  EXPECT_THAT(message("tokenizer_config.json", {{"extra_special_tokens", {7}}}),
              HasSubstr("field 'extra_special_tokens' holds number, expected tokens"));
  EXPECT_THAT(message("special_tokens_map.json", {{"additional_special_tokens", "<x>"}}),
              HasSubstr("special_tokens_map.json: field 'additional_special_tokens'"));
  EXPECT_THAT(message("special_tokens_map.json", Json::array()), HasSubstr("special_tokens_map.json"));
  EXPECT_THAT(message("added_tokens.json", {{"<x>", -1}}),
              HasSubstr("added_tokens.json: field '<x>' has -1"));
}

TEST(CompanionTokens, DamagedFilesGiveErrors) {
  const Json entries = read_json(data_folder / "companions.json");
  const test::Scratch folder;
  fs::copy_file(data_folder / "gpt2/tokenizer.json", folder / "tokenizer.json");
  for (const Json& entry : {entries[0], entries[6], entries[15]}) {
    for (const auto& [name, content] : entry["files"].items()) {
      test::expect_survives_damage(folder / name, content.dump(), 100,
                                   [&] { load_tokenizer(folder.path()).encode("a <x> b"); });
      fs::remove(folder / name);
    }
  }
}

}  // namespace
}  // namespace fathom
