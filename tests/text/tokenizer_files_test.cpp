// What stands in tokenizer files: companions, what is refused and how, damage.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "base/error.h"
#include "base/file.h"
#include "base/json.h"
#include "damage.h"
#include "message.h"
#include "scratch.h"
#include "text/regex.h"
#include "text/tokenizer.h"

namespace fathom {
namespace {

namespace fs = std::filesystem;
using testing::ElementsAre;
using testing::HasSubstr;

const fs::path data_folder = fs::path(FATHOM_TEST_DATA) / "tokenizers";

/// The message that a tokenizer gives after `edit` changed its tokenizer.json.
std::string refusal(const std::string& name, const std::function<void(Json&)>& edit) {
  const test::Scratch scratch;
  Json json = read_json(data_folder / name / "tokenizer.json");
  edit(json);
  write_file(scratch / "tokenizer.json", json.dump());
  return message(
      [&] { load_tokenizer(scratch.path()).encode("Hello aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaab"); });
}

TEST(TokenizerFiles, WhatIsNotSupportedIsRefusedByName) {
  const auto type = [](const char* key, const char* value) {
    return [=](Json& json) { json[key] = {{"type", value}}; };
  };
  EXPECT_THAT(refusal("gpt2", type("normalizer", "Nmt")),
              HasSubstr("tokenizer.json: field 'normalizer.type' is 'Nmt'"));
  EXPECT_THAT(refusal("gpt2", type("pre_tokenizer", "Whitespace")),
              HasSubstr("field 'pre_tokenizer.type' is 'Whitespace'"));
  EXPECT_THAT(refusal("gpt2", type("decoder", "WordPiece")),
              HasSubstr("field 'decoder.type' is 'WordPiece'"));
  EXPECT_THAT(refusal("gpt2", type("post_processor", "RobertaProcessing")),
              HasSubstr("field 'post_processor.type' is 'RobertaProcessing'"));
  EXPECT_THAT(refusal("gpt2", [](Json& json) { json["model"]["type"] = "WordPiece"; }),
              HasSubstr("field 'model.type' is 'WordPiece'"));
  EXPECT_THAT(refusal("gpt2", [](Json& json) { json["model"]["dropout"] = 0.1; }),
              HasSubstr("field 'model.dropout'"));
  EXPECT_THAT(refusal("gpt2", [](Json& json) { json["model"]["end_of_word_suffix"] = "</w>"; }),
              HasSubstr("field 'model.end_of_word_suffix' is '</w>'"));
  EXPECT_THAT(refusal("gpt2", [](Json& json) { json["model"]["vocab"] = Json::array({"a"}); }),
              HasSubstr("Unigram"));
}

TEST(TokenizerFiles, ContradictionsAreNamed) {
  EXPECT_THAT(refusal("gpt2", [](Json& json) { json["model"]["vocab"]["a"] = 0; }),
              HasSubstr("gives id 0 to both"));
  EXPECT_THAT(refusal("gpt2", [](Json& json) { json["model"]["vocab"]["a"] = 2'000'000'000; }),
              HasSubstr("field 'model.vocab' gives 'a' the id 2000000000"));
  EXPECT_THAT(refusal("gpt2",
                      [](Json& json) {
                        json["model"]["merges"][3] = {"zz", "y"};
                      }),
              HasSubstr("field 'model.merges'[3] merges 'zz' and 'y', but 'zz' is not in the vocabulary"));
  EXPECT_THAT(refusal("llama2", [](Json& json) { json["model"]["unk_token"] = "<none>"; }),
              HasSubstr("'<none>'"));
  EXPECT_THAT(refusal("qwen2",
                      [](Json& json) {
                        json["added_tokens"][0]["id"] = 5;
                        json["added_tokens"][0]["content"] = "<new>";
                      }),
              HasSubstr("field 'added_tokens[0].id' is 5, which is the id of"));
  EXPECT_THAT(
      refusal("llama2", [](Json& json) { json["post_processor"]["special_tokens"] = Json::object(); }),
      HasSubstr("field 'post_processor.special_tokens.<s>' is missing"));
}

TEST(TokenizerFiles, AHostilePatternEndsInAnError) {
  const auto pattern = [](const char* regex) {
    return [=](Json& json) {
      json["pre_tokenizer"] = {{"type", "Split"}, {"pattern", {{"Regex", regex}}}, {"behavior", "Isolated"}};
    };
  };
  EXPECT_THAT(refusal("gpt2", pattern("(a+)+$|(a|aa)+c")),
              HasSubstr("fails on this text: match limit exceeded"));
  EXPECT_THAT(refusal("gpt2", pattern("(((a{900}){900}){900})")),
              HasSubstr("field 'pre_tokenizer.pattern.Regex' is no valid"));
  EXPECT_THAT(refusal("gpt2", pattern("[a")), HasSubstr("is no valid regular expression"));
  EXPECT_THAT(refusal("gpt2", pattern("[a[b]]")), HasSubstr("'a set in a set' is not supported"));
  EXPECT_THAT(refusal("gpt2", pattern("\\w+")), HasSubstr("'\\w' is not supported"));
  EXPECT_THAT(refusal("gpt2", pattern("(?m:a.b)")), HasSubstr("is not supported"));
}

std::vector<std::string> pieces(const char* pattern, std::string_view text) {
  std::vector<std::string> found;
  for (const Stretch& part : Regex(pattern, "x").find_all(text))
    found.push_back((part.match ? "+" : "-") + std::string(text.substr(part.begin, part.end - part.begin)));
  return found;
}

TEST(Regex, FollowsOniguruma) {
  EXPECT_THAT(pieces("\\s", "a\u180e\u3000\u0085"), ElementsAre("-a\u180e", "+\u3000", "+\u0085"));
  EXPECT_THAT(pieces("[^\\s]+", "ab c"), ElementsAre("+ab", "- ", "+c"));
  EXPECT_THAT(pieces("[\\S]", " x"), ElementsAre("- ", "+x"));
  EXPECT_THAT(pieces("^b$", "a\nb\nc"), ElementsAre("-a\n", "+b", "-\nc"));
  EXPECT_THAT(pieces("(?=B)", "aBB"), ElementsAre("-a", "+", "-B", "+", "-B"));
  EXPECT_THAT(pieces("x*", "xxé"), ElementsAre("+xx", "-é", "+"));
  EXPECT_THAT(pieces("(?<=a)b", "abb"), ElementsAre("-a", "+b", "-b"));
}

TEST(TokenizerFiles, CompanionsSayWhichTokenIsWhich) {
  const test::Scratch scratch;
  fs::copy_file(data_folder / "qwen2/tokenizer.json", scratch / "tokenizer.json");
  {
    const Tokenizer tokenizer = load_tokenizer(scratch.path());  // alone
    EXPECT_EQ(tokenizer.eos(), std::nullopt);
    EXPECT_THAT(tokenizer.end_tokens(), ElementsAre(*tokenizer.id("<|im_end|>")));
  }
  write_file(scratch / "generation_config.json", R"({"eos_token_id": [420, 422]})");
  EXPECT_EQ(load_tokenizer(scratch.path()).eos(), 420);
  for (const char* none : {R"({"eos_token_id": -1})", R"({"eos_token_id": [null, -1]})"}) {
    write_file(scratch / "generation_config.json", none);
    EXPECT_EQ(load_tokenizer(scratch.path()).eos(), std::nullopt) << none;
  }
  write_file(scratch / "special_tokens_map.json",
             R"({"eos_token": {"content": "<|im_end|>"}, "pad_token": "a"})");
  write_file(
      scratch / "tokenizer_config.json",
      R"({"pad_token": "b", "chat_template": [{"name": "tools", "template": "T"}, {"name": "default", "template": "D"}]})");
  {
    const Tokenizer tokenizer = load_tokenizer(scratch.path());
    EXPECT_EQ(tokenizer.eos(), tokenizer.id("<|im_end|>"));
    EXPECT_EQ(tokenizer.special_text("pad_token"), "a");
    EXPECT_EQ(tokenizer.chat_template(), "D");
  }
  write_file(scratch / "chat_template.jinja", "{{ x }}");
  EXPECT_EQ(load_tokenizer(scratch.path()).chat_template(), "{{ x }}");
  write_file(scratch / "generation_config.json", R"({"eos_token_id": "two"})");
  EXPECT_THAT(message([&] { load_tokenizer(scratch.path()); }),
              HasSubstr("generation_config.json: field 'eos_token_id' has \"two\", expected token ids"));
}

TEST(TokenizerFiles, AMissingTokenizerIsSaidSo) {
  const test::Scratch scratch;
  EXPECT_FALSE(has_tokenizer(scratch.path()));
  EXPECT_TRUE(has_tokenizer(data_folder / "gpt2"));
  EXPECT_TRUE(has_tokenizer(data_folder / "gpt2/tokenizer.gguf"));
  EXPECT_THAT(message([&] { load_tokenizer(scratch.path()); }), HasSubstr("tokenizer.json is missing"));
  write_file(scratch / "tokenizer.model", "");
  EXPECT_THAT(message([&] { load_tokenizer(scratch.path()); }),
              HasSubstr("not from tokenizer.model, which is there"));
}

TEST(TokenizerFiles, DamagedFilesGiveErrors) {
  const test::Scratch scratch;
  for (const char* name : {"llama2", "qwen2", "metaspace"}) {
    const fs::path path = scratch / "tokenizer.json";
    test::expect_survives_damage(path, read_file(data_folder / name / "tokenizer.json"), 400,
                                 [&] { load_tokenizer(path).encode("Hello  World\u00e9\n 123"); });
    fs::remove(path);
  }
  for (const char* name : {"llama2", "qwen2"}) {
    const fs::path path = scratch / "tokenizer.gguf";
    test::expect_survives_damage(path, read_file(data_folder / name / "tokenizer.gguf"), 400,
                                 [&] { load_tokenizer(path).encode("Hello  World\u00e9\n 123"); });
    fs::remove(path);
  }
}

}  // namespace
}  // namespace fathom
