// A GGUF file's tokenizer keys as the tokenizer.json that says the same.
#include <algorithm>
#include <cmath>
#include <tuple>

#include "base/error.h"
#include "text/gguf_vocabulary.h"
#include "text/pretokenizer.h"
#include "text/tokenizer_spec.h"
#include "text/unicode.h"

namespace fathom {
namespace {

constexpr const char* model_key = "tokenizer.ggml.model";
constexpr const char* tokens_key = "tokenizer.ggml.tokens";
constexpr const char* pre_key = "tokenizer.ggml.pre";

// SentencePiece's own limit is 16 characters; finding the merges of a piece takes its length squared.
constexpr std::size_t longest_piece = 1024;

constexpr const char* llama3_pattern =
    R"((?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+)";
constexpr const char* qwen2_pattern =
    R"((?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+)";

Json split(const char* pattern) {
  return {{"type", "Split"}, {"pattern", {{"Regex", pattern}}}, {"behavior", "Isolated"}, {"invert", false}};
}
Json byte_level(bool use_regex) {
  return {
      {"type", "ByteLevel"}, {"add_prefix_space", false}, {"trim_offsets", false}, {"use_regex", use_regex}};
}
Json digits() { return {{"type", "Digits"}, {"individual_digits", true}}; }
Json sequence(const char* key, std::vector<Json> parts) {
  return {{"type", "Sequence"}, {key, std::move(parts)}};
}

Pre read_pre(const GgufFile& file) {
  const std::string name = file.has(pre_key) ? file.string(pre_key) : "default";
  if (auto pre = pre_named(name)) return std::move(*pre);
  fail("{}: key '{}' is '{}', which is not supported; supported: gpt-2, smollm, llama-bpe, qwen2, default",
       file.path().string(), pre_key, name);
}

bool flag_or(const GgufFile& file, const std::string& key, bool fallback) {
  const auto found = file.metadata().find(key);
  if (found == file.metadata().end()) return fallback;
  if (const bool* value = std::get_if<bool>(&found->second)) return *value;
  fail("{}: key '{}' is of another type, expected a boolean", file.path().string(), key);
}

const std::vector<std::string>& read_pieces(const GgufFile& file) {
  const auto& pieces = file.strings(tokens_key);
  if (pieces.empty()) fail("{}: key '{}' is empty", file.path().string(), tokens_key);
  for (std::size_t id = 0; id < pieces.size(); ++id)
    if (!is_valid_utf8(pieces[id]))
      fail("{}: key '{}'[{}] is not UTF-8", file.path().string(), tokens_key, id);
  return pieces;
}

std::vector<PieceType> read_types(const GgufFile& file, std::size_t count) {
  const std::string key = "tokenizer.ggml.token_type";
  std::vector<PieceType> types(count, PieceType::normal);
  if (!file.has(key)) return types;
  const std::vector<std::int64_t> values = file.integers(key);
  if (values.size() != count)
    fail("{}: key '{}' has {} entries, expected {}, as many as '{}'", file.path().string(), key,
         values.size(), count, tokens_key);
  std::transform(values.begin(), values.end(), types.begin(),
                 [](std::int64_t value) { return static_cast<PieceType>(value); });
  return types;
}

/// llama.cpp's converter writes user-defined pieces of SentencePiece, runs of spaces for instance, with plain
/// spaces and with a score that keeps them from being merged. SentencePiece has visible spaces and score 0.
void restore_user_defined(std::vector<std::string>& pieces, const std::vector<PieceType>& types) {
  for (std::size_t id = 0; id < pieces.size(); ++id)
    if (types[id] == PieceType::user_defined)
      pieces[id] = TextPattern(" ").replace_all(pieces[id], visible_space);
}

std::vector<double> read_scores(const GgufFile& file, std::size_t count) {
  const std::string key = "tokenizer.ggml.scores";
  std::vector<double> scores = file.numbers(key);
  if (scores.size() != count)
    fail("{}: key '{}' has {} entries, expected {}, as many as '{}'", file.path().string(), key,
         scores.size(), count, tokens_key);
  return scores;
}

Bpe::Merges read_merges(const GgufFile& file) {
  const std::string key = "tokenizer.ggml.merges";
  const auto& lines = file.strings(key);
  Bpe::Merges merges;
  merges.reserve(lines.size());
  for (std::size_t i = 0; i < lines.size(); ++i) {
    const std::size_t space = lines[i].find(' ', 1);  // a piece is never empty, but may begin with a space
    if (space == std::string::npos || !is_valid_utf8(lines[i]))
      fail("{}: key '{}'[{}] is no pair of pieces with a space between", file.path().string(), key, i);
    merges.emplace_back(lines[i].substr(0, space), lines[i].substr(space + 1));
  }
  return merges;
}

/// BOS before and EOS behind a text, where the file asks for them.
Json post_processor(const GgufFile& file, const std::vector<std::string>& pieces, bool bos_by_default) {
  Json single = Json::array(), tokens = Json::object();
  const auto special = [&](const std::string& name, bool by_default) {
    const auto id = file.special_token(name);
    if (!id || !flag_or(file, "tokenizer.ggml.add_" + name + "_token", by_default)) return;
    const std::string& piece = pieces[*id];
    single.push_back({{"SpecialToken", {{"id", piece}, {"type_id", 0}}}});
    tokens[piece] = {{"id", piece}, {"ids", Json::array({*id})}, {"tokens", Json::array({piece})}};
  };
  const auto text = [](const char* id, int type) {
    return Json{{"Sequence", {{"id", id}, {"type_id", type}}}};
  };
  special("bos", bos_by_default);
  single.push_back(text("A", 0));
  special("eos", false);
  Json pair = single;
  pair.push_back(text("B", 1));
  return {{"type", "TemplateProcessing"}, {"single", single}, {"pair", pair}, {"special_tokens", tokens}};
}

Json added_tokens(const std::vector<std::string>& pieces, const std::vector<PieceType>& types) {
  Json list = Json::array();
  for (std::size_t id = 0; id < pieces.size(); ++id) {
    const bool special = types[id] == PieceType::control || types[id] == PieceType::unknown;
    if ((!special && types[id] != PieceType::user_defined) || pieces[id].empty()) continue;
    list.push_back({{"id", id},
                    {"content", pieces[id]},
                    {"single_word", false},
                    {"lstrip", false},
                    {"rstrip", false},
                    {"normalized", false},
                    {"special", special}});
  }
  return list;
}

}  // namespace

std::optional<Pre> pre_named(const std::string& name) {
  const auto among = [&](std::initializer_list<const char*> names) {
    return std::find(names.begin(), names.end(), name) != names.end();
  };
  if (among({"gpt-2", "phi-2", "olmo", "mpt", "jina-en", "jina-es", "jina-de", "gigachat"}))
    return Pre{.pre_tokenizer = byte_level(true)};
  if (among({"smollm", "starcoder", "refact", "command-r", "codeshell", "exaone"}))
    return Pre{.pre_tokenizer = sequence("pretokenizers", {digits(), byte_level(true)})};
  if (among({"llama-bpe", "llama3", "llama-v3"}))
    return Pre{.pre_tokenizer = sequence("pretokenizers", {split(llama3_pattern), byte_level(false)}),
               .ignore_merges = true,
               .add_bos = true};
  if (among({"qwen2", "deepseek-r1-qwen"}))
    return Pre{.pre_tokenizer = sequence("pretokenizers", {split(qwen2_pattern), byte_level(false)}),
               .normalizer = {{"type", "NFC"}}};
  if (name != "default") return std::nullopt;
  // What llama.cpp does with files that do not say.
  const std::vector<Json> parts = {split(R"([\p{P}\$\+<=>\^~\|]+)"), split(gpt2_pattern), split(R"(\p{N}+)"),
                                   split("[0-9][0-9][0-9]"), byte_level(false)};
  return Pre{.pre_tokenizer = sequence("pretokenizers", parts)};
}

Bpe::Merges merges_from_scores(const std::vector<std::string>& pieces, std::span<const PieceType> types,
                               std::vector<double> scores, const std::string& where) {
  const auto merges = [&](std::size_t id) {
    return types[id] == PieceType::normal || types[id] == PieceType::user_defined ||
           types[id] == PieceType::unused;
  };
  std::unordered_map<std::string_view, Token> ids;
  for (std::size_t id = 0; id < pieces.size(); ++id)
    if (merges(id)) ids.emplace(pieces[id], static_cast<Token>(id));

  struct Merge {
    double score;
    std::size_t left_characters, right_characters;
    Token left, right;
  };
  std::vector<Merge> found;
  for (std::size_t id = 0; id < pieces.size(); ++id) {
    if (!merges(id)) continue;
    if (types[id] == PieceType::user_defined) scores[id] = 0;
    const std::string_view piece = pieces[id];
    if (piece.size() > longest_piece)
      fail("{}: key '{}'[{}] has {} bytes, expected at most {}", where, tokens_key, id, piece.size(),
           longest_piece);
    if (!std::isfinite(scores[id])) fail("{}: key 'tokenizer.ggml.scores'[{}] is not a number", where, id);
    const std::size_t first = found.size();
    std::size_t characters = 0, total = 0;
    for (std::size_t at = 0; at < piece.size(); at += character_bytes(piece[at])) ++total;
    for (std::size_t at = 0; at < piece.size(); at += character_bytes(piece[at]), ++characters) {
      if (at == 0) continue;
      const auto left = ids.find(piece.substr(0, at)), right = ids.find(piece.substr(at));
      if (left != ids.end() && right != ids.end())
        found.push_back({scores[id], characters, total - characters, left->second, right->second});
    }
    std::sort(
        found.begin() + static_cast<std::ptrdiff_t>(first), found.end(),
        [](const Merge& a, const Merge& b) { return std::tie(a.left, a.right) < std::tie(b.left, b.right); });
  }
  std::stable_sort(found.begin(), found.end(), [](const Merge& a, const Merge& b) {
    return std::tie(a.score, a.left_characters, a.right_characters) >
           std::tie(b.score, b.left_characters, b.right_characters);
  });
  Bpe::Merges result;
  result.reserve(found.size());
  for (const Merge& merge : found) result.emplace_back(pieces[merge.left], pieces[merge.right]);
  return result;
}

bool has_gguf_tokenizer(const GgufFile& file) {
  if (!file.has(model_key)) return false;
  const std::string& model = file.string(model_key);
  return model != "none" && model != "no_vocab";
}

TokenizerSpec tokenizer_spec_from_gguf(const GgufFile& file) {
  const std::string& model = file.string(model_key);
  if (model != "gpt2" && model != "llama")
    fail(
        "{}: key '{}' is '{}', which is not supported; supported: gpt2 (byte-level BPE), "
        "llama (SentencePiece BPE)",
        file.path().string(), model_key, model);
  const bool sentencepiece = model == "llama";
  std::vector<std::string> pieces = read_pieces(file);
  const std::vector<PieceType> types = read_types(file, pieces.size());
  if (sentencepiece) restore_user_defined(pieces, types);

  TokenizerSpec spec;
  spec.source = file.path().string();
  for (std::size_t id = 0; id < pieces.size(); ++id) {
    // Byte-level vocabularies are padded with "[PAD151936]" to a round size; no text becomes those.
    if (types[id] != PieceType::unused || sentencepiece)
      spec.vocabulary.emplace_back(pieces[id], static_cast<Token>(id));
  }

  Json bpe = {{"type", "BPE"},
              {"dropout", nullptr},
              {"unk_token", nullptr},
              {"fuse_unk", sentencepiece},
              {"byte_fallback", sentencepiece},
              {"ignore_merges", false}};
  Json normalizer = nullptr, pre_tokenizer = nullptr, decoder;
  bool add_bos = true;
  if (sentencepiece) {
    spec.merges = merges_from_scores(pieces, types, read_scores(file, pieces.size()), file.path().string());
    if (const auto unknown = file.special_token("unknown")) bpe["unk_token"] = pieces[*unknown];
    const bool prefix = flag_or(file, "tokenizer.ggml.add_space_prefix", true);
    std::vector<Json> before,
        after = {{{"type", "Replace"}, {"pattern", {{"String", visible_space}}}, {"content", " "}},
                 {{"type", "ByteFallback"}},
                 {{"type", "Fuse"}}};
    if (prefix) {
      before.push_back({{"type", "Prepend"}, {"prepend", visible_space}});
      after.push_back({{"type", "Strip"}, {"content", " "}, {"start", 1}, {"stop", 0}});
    }
    before.push_back({{"type", "Replace"}, {"pattern", {{"String", " "}}}, {"content", visible_space}});
    normalizer = sequence("normalizers", before);
    decoder = sequence("decoders", after);
  } else {
    spec.merges = read_merges(file);
    Pre pre = read_pre(file);
    bpe["ignore_merges"] = pre.ignore_merges;
    add_bos = pre.add_bos;
    normalizer = std::move(pre.normalizer);
    pre_tokenizer = std::move(pre.pre_tokenizer);
    decoder = byte_level(true);
  }
  spec.rest = {{"version", "1.0"},
               {"truncation", nullptr},
               {"padding", nullptr},
               {"added_tokens", added_tokens(pieces, types)},
               {"normalizer", normalizer},
               {"pre_tokenizer", pre_tokenizer},
               {"post_processor", post_processor(file, pieces, add_bos)},
               {"decoder", decoder},
               {"model", bpe}};
  return spec;
}

TokenizerConfig tokenizer_config_from_gguf(const GgufFile& file) {
  TokenizerConfig config;
  const auto& pieces = read_pieces(file);
  for (const auto& [name, key] : special_names)
    if (const auto id = file.special_token(key))
      config.special_texts.emplace_back(std::string(name) + "_token", pieces[*id]);
  for (const char* name : {"eos", "eot", "eom"})
    if (const auto id = file.special_token(name)) config.end_ids.push_back(static_cast<Token>(*id));
  const std::string key = "tokenizer.chat_template";
  if (file.has(key)) config.chat_template = file.string(key);
  if (!is_valid_utf8(config.chat_template)) fail("{}: key '{}' is not UTF-8", file.path().string(), key);
  return config;
}

}  // namespace fathom
