#include "text/tokenizer_to_gguf.h"

#include <algorithm>
#include <array>
#include <unordered_map>

#include "base/error.h"
#include "formats/gguf.h"
#include "text/gguf_vocabulary.h"
#include "text/regex.h"
#include "text/tokenizer_data.h"

namespace fathom {
namespace {

namespace fs = std::filesystem;

constexpr const char* remedy = "export with --to hf, which keeps tokenizer.json as it is";

// What llama.cpp's converter gives pieces that a text contains as a whole, so that no merge makes them.
constexpr double user_defined_score = -1000;

/// An object of tokenizer.json without what does not change the result, its keys in one order: equal values
/// mean the same.
nlohmann::json meaning(const Json& value) {
  if (value.is_array()) {
    nlohmann::json list = nlohmann::json::array();
    for (const Json& element : value) list.push_back(meaning(element));
    return list;
  }
  if (!value.is_object()) return nlohmann::json::parse(value.dump());
  nlohmann::json object = nlohmann::json::object();
  for (const auto& [key, element] : value.items())
    if (key != "trim_offsets") object[key] = meaning(element);
  if (object.value("type", "") == "ByteLevel") object.emplace("use_regex", true);
  return object;
}

/// The stages of a tokenizer.json that is not there read as null.
const Json& stage(const Json& rest, const char* name) {
  static const Json none;
  return rest.contains(name) ? rest[name] : none;
}

/// The name under which llama.cpp knows this way of cutting text.
std::string pre_of(const TokenizerSpec& spec) {
  const bool ignore_merges =
      JsonObject(spec.rest, spec.source).object("model").boolean_or("ignore_merges", false);
  for (const char* name : pre_names) {
    const auto pre = pre_named(name);
    if (meaning(pre->pre_tokenizer) == meaning(stage(spec.rest, "pre_tokenizer")) &&
        meaning(pre->normalizer) == meaning(stage(spec.rest, "normalizer")) &&
        pre->ignore_merges == ignore_merges)
      return name;
  }
  fail(
      "{}: fields 'normalizer' and 'pre_tokenizer' cut text in a way that is none of those that GGUF files "
      "can name here (gpt-2, smollm, llama-bpe, qwen2, default): {}",
      spec.source, remedy);
}

/// Whether SentencePiece puts a space before a text, of a tokenizer that only replaces spaces besides.
bool space_prefix(const TokenizerSpec& spec) {
  const Json replace = {{"type", "Replace"}, {"pattern", {{"String", " "}}}, {"content", visible_space}};
  const Json prepend = {{"type", "Prepend"}, {"prepend", visible_space}};
  const auto sequence = [](const std::vector<Json>& parts) {
    return meaning(Json{{"type", "Sequence"}, {"normalizers", parts}});
  };
  const auto normalizer = meaning(stage(spec.rest, "normalizer"));
  const Json& cut = stage(spec.rest, "pre_tokenizer");
  // There are no spaces left to cut at.
  const bool whole = cut.is_null() || (cut.value("type", "") == "Split" &&
                                       meaning(cut.value("pattern", Json())) == meaning({{"String", " "}}));
  if (whole && normalizer == sequence({prepend, replace})) return true;
  if (whole && (normalizer == meaning(replace) || normalizer == sequence({replace}))) return false;
  if (normalizer.is_null() && cut.is_object() && cut.value("type", "") == "Metaspace" &&
      cut.value("replacement", "") == visible_space && !cut.value("split", true))
    return cut.value("prepend_scheme", "always") != "never";
  fail(
      "{}: fields 'normalizer' and 'pre_tokenizer' do more than SentencePiece, which is what a GGUF file can "
      "say of a vocabulary with byte_fallback: {}",
      spec.source, remedy);
}

/// Scores by which llama.cpp's merging finds the same merges: what is merged first has the best. Checked by
/// the way back.
std::vector<double> scores_of(const TokenizerSpec& spec, const std::vector<std::string>& pieces,
                              std::span<const PieceType> types) {
  std::unordered_map<std::string_view, double> best;
  std::vector<std::string> results;
  results.reserve(spec.merges.size());
  for (const auto& [left, right] : spec.merges) results.push_back(left + right);
  for (const std::string& result : results) best.emplace(result, -static_cast<double>(best.size()));
  const double worst = -static_cast<double>(best.size());
  std::vector<double> scores(pieces.size());
  for (std::size_t id = 0; id < pieces.size(); ++id) {
    const auto found = best.find(pieces[id]);
    if (types[id] == PieceType::user_defined) scores[id] = user_defined_score;
    if (types[id] == PieceType::normal) scores[id] = found == best.end() ? worst : found->second;
  }
  if (merges_from_scores(pieces, types, scores, spec.source) != spec.merges)
    fail(
        "{}: field 'model.merges' is in an order that no scores of pieces give, and scores are what a GGUF "
        "file has for vocabularies with byte_fallback: {}",
        spec.source, remedy);
  return scores;
}

class KeyWriter {
 public:
  KeyWriter(TokenizerSpec spec, const TokenizerConfig& config)
      : spec_(spec), data_(std::move(spec), config), sentencepiece_(byte_fallback()) {}

  GgufMetadata write(std::int64_t vocab_size) {
    add_pieces(vocab_size);
    keys_["tokenizer.ggml.model"] = std::string(sentencepiece_ ? "llama" : "gpt2");
    if (sentencepiece_) {
      keys_["tokenizer.ggml.pre"] = std::string("default");
      keys_["tokenizer.ggml.add_space_prefix"] = space_prefix(spec_);
      keys_["tokenizer.ggml.scores"] = scores_of(spec_, pieces_, types_);
      plain_spaces();
    } else {
      keys_["tokenizer.ggml.pre"] = pre_of(spec_);
      std::vector<std::string> merges;
      merges.reserve(spec_.merges.size());
      for (const auto& [left, right] : spec_.merges) merges.push_back(left + " " + right);
      keys_["tokenizer.ggml.merges"] = std::move(merges);
    }
    add_special_tokens();
    if (!data_.config.chat_template.empty()) keys_["tokenizer.chat_template"] = data_.config.chat_template;
    keys_["tokenizer.ggml.tokens"] = std::move(pieces_);
    std::vector<std::int64_t> types;
    for (const PieceType type : types_) types.push_back(static_cast<std::int64_t>(type));
    keys_["tokenizer.ggml.token_type"] = std::move(types);
    return std::move(keys_);
  }

 private:
  bool byte_fallback() const {
    return JsonObject(spec_.rest, spec_.source).object("model").boolean_or("byte_fallback", false);
  }

  void put(Token id, const std::string& piece, PieceType type, std::int64_t vocab_size) {
    if (id >= vocab_size)
      fail(
          "{}: token '{}' has the id {}, but the model has {} embeddings: llama.cpp wants one for each token",
          spec_.source, piece, id, vocab_size);
    pieces_[static_cast<std::size_t>(id)] = piece;
    types_[static_cast<std::size_t>(id)] = type;
  }

  void add_pieces(std::int64_t vocab_size) {
    for (std::int64_t id = 0; id < vocab_size; ++id) pieces_.push_back(fmt::format("[PAD{}]", id));
    types_.assign(pieces_.size(), PieceType::unused);
    for (const auto& [piece, id] : spec_.vocabulary)
      put(id, piece, sentencepiece_ && is_byte(piece) ? PieceType::byte : PieceType::normal, vocab_size);
    for (const AddedToken& token : data_.added_tokens.all())
      put(token.id, token.content, token.special ? PieceType::control : PieceType::user_defined, vocab_size);
    const JsonObject model = JsonObject(spec_.rest, spec_.source).object("model");
    if (model.has("unk_token"))
      if (const auto unknown = data_.find(model.string("unk_token")))
        types_[static_cast<std::size_t>(*unknown)] = PieceType::unknown;
  }

  static bool is_byte(std::string_view piece) {
    return piece.size() == 6 && piece.starts_with("<0x") && piece.ends_with('>');
  }

  /// llama.cpp looks for user-defined pieces in the text as it is.
  void plain_spaces() {
    const TextPattern pattern(visible_space);
    for (std::size_t id = 0; id < pieces_.size(); ++id)
      if (types_[id] == PieceType::user_defined) pieces_[id] = pattern.replace_all(pieces_[id], " ");
  }

  void set_token(const std::string& name, Token id) {
    keys_["tokenizer.ggml." + name + "_token_id"] = std::int64_t{id};
  }

  /// Whether a token of this kind is put around every text, and which.
  void add_around(const std::string& name, const std::vector<Token>& tokens) {
    const std::string key = "tokenizer.ggml." + name + "_token_id";
    keys_["tokenizer.ggml.add_" + name + "_token"] = !tokens.empty();
    if (tokens.empty()) return;
    const auto known = keys_.find(key);
    const bool other =
        name == "eos" && known != keys_.end() && known->second != GgufValue(std::int64_t{tokens[0]});
    if (tokens.size() > 1 || other)
      fail(
          "{}: field 'post_processor' puts other tokens around a text than one that begins it and the one "
          "that "
          "ends it, which is all that a GGUF file can say: {}",
          spec_.source, remedy);
    set_token(name, tokens[0]);
  }

  void add_special_tokens() {
    for (const auto& [name, key] : special_names)
      for (const auto& [text_name, text] : data_.config.special_texts)
        if (text_name == std::string(name) + "_token")
          if (const auto id = data_.find(text)) set_token(key, *id);
    if (data_.eos) set_token("eos", *data_.eos);
    // At these, too, llama.cpp stops.
    static constexpr std::array others = {"eot", "eom"};
    std::size_t next = 0;
    for (const Token id : data_.end_tokens)
      if (id != data_.eos && next < others.size()) set_token(others[next++], id);
    add_around("bos", data_.before);
    add_around("eos", data_.after);
  }

  TokenizerSpec spec_;
  Tokenizer::Data data_;
  bool sentencepiece_;
  std::vector<std::string> pieces_;
  std::vector<PieceType> types_;
  GgufMetadata keys_;
};

GgufMetadata copied_keys(const GgufFile& file) {
  GgufMetadata keys;
  for (const auto& [key, value] : file.metadata())
    if (key.starts_with("tokenizer.")) keys.emplace(key, value);
  return keys;
}

}  // namespace

GgufMetadata tokenizer_to_gguf(const fs::path& model, std::int64_t vocab_size) {
  if (!has_tokenizer(model)) return {{"tokenizer.ggml.model", std::string("none")}};
  if (fs::is_regular_file(model) && is_gguf(model)) return copied_keys(GgufFile(model));
  const fs::path directory = fs::is_directory(model) ? model : model.parent_path();
  const fs::path json = fs::is_directory(model) ? model / "tokenizer.json" : model;
  return KeyWriter(read_tokenizer_json(json), read_tokenizer_config(directory)).write(vocab_size);
}

}  // namespace fathom
