// Tokenizers from files: the stages that tokenizer.json names, put together.
#include <algorithm>
#include <array>
#include <limits>

#include "base/error.h"
#include "text/tokenizer_data.h"

namespace fathom {
namespace {

namespace fs = std::filesystem;

// Looking for added tokens takes a tree with a node for each of their bytes.
constexpr std::size_t most_added_bytes = 16 << 20;

// Tokens that end a model's turn in a chat, besides the end of text.
constexpr std::array end_of_turn = {"<|im_end|>", "<|eot_id|>", "<end_of_turn>"};

BpeOptions read_bpe_options(const JsonObject& model) {
  const std::string type = model.string_or("type", "BPE");
  if (type != "BPE") fail("{} is '{}', which is not supported; supported: BPE", model.field("type"), type);
  if (model.number_or("dropout", 0) != 0)
    fail("{} is {}: tokens by chance are not supported; set it to null", model.field("dropout"),
         model.number("dropout"));
  for (const char* key : {"continuing_subword_prefix", "end_of_word_suffix"}) {
    if (!model.string_or(key, "").empty())
      fail("{} is '{}', which is not supported, expected null or \"\"", model.field(key), model.string(key));
  }
  BpeOptions options;
  if (model.has("unk_token")) options.unknown = model.string("unk_token");
  options.fuse_unknown = model.boolean_or("fuse_unk", false);
  options.byte_fallback = model.boolean_or("byte_fallback", false);
  options.ignore_merges = model.boolean_or("ignore_merges", false);
  return options;
}

std::vector<AddedToken> read_added_tokens(const JsonObject& root, const Vocabulary& vocabulary) {
  std::vector<AddedToken> tokens;
  if (!root.has("added_tokens")) return tokens;
  for (const JsonObject& object : root.objects("added_tokens")) {
    AddedToken token = read_added_token(object, object.boolean_or("special", false));
    if (token.content.empty()) continue;
    // A piece of the vocabulary keeps its id there.
    const auto known = vocabulary.find(token.content);
    token.id =
        known ? *known : static_cast<Token>(object.integer("id", 0, std::numeric_limits<Token>::max()));
    if (!known && vocabulary.piece(token.id) != nullptr)
      fail("{} is {}, which is the id of '{}' in the vocabulary", object.field("id"), token.id,
           *vocabulary.piece(token.id));
    tokens.push_back(std::move(token));
  }
  return tokens;
}

void check_size(const std::vector<AddedToken>& tokens, const std::string& source) {
  std::size_t bytes = 0;
  for (const AddedToken& token : tokens) bytes += token.content.size();
  if (bytes > most_added_bytes)
    fail("{}: its added tokens and those of the files beside it have {} bytes, expected at most {}", source,
         bytes, most_added_bytes);
}

/// Ids that the post-processor puts around a text.
struct Frame {
  std::vector<Token> before, after;
};

void add_template(const JsonObject& processor, Frame& frame) {
  Frame added;
  bool text_seen = false;
  for (const JsonObject& part : processor.objects("single")) {
    if (part.has("Sequence")) {
      if (text_seen || part.object("Sequence").string("id") != "A")
        fail("{}: expected the text, \"A\", once", part.field("Sequence"));
      text_seen = true;
      continue;
    }
    const std::string name = part.object("SpecialToken").string("id");
    const JsonObject token = processor.object("special_tokens").object(name);
    const Json& ids = token.array("ids", 1000);
    for (const Json& id : ids)
      (text_seen ? added.after : added.before).push_back(read_token_id(id, token.field("ids")));
  }
  if (!text_seen) fail("{}: expected the text, \"A\", once", processor.field("single"));
  frame.before.insert(frame.before.begin(), added.before.begin(), added.before.end());
  frame.after.insert(frame.after.end(), added.after.begin(), added.after.end());
}

void add_post_processor(const JsonObject& processor, Frame& frame, int depth) {
  const std::string type = processor.string("type");
  if (type == "TemplateProcessing") {
    add_template(processor, frame);
  } else if (type == "Sequence" && depth < deepest_sequence) {
    for (const JsonObject& part : processor.objects("processors")) add_post_processor(part, frame, depth + 1);
  } else if (type != "ByteLevel") {  // which only moves offsets
    fail("{} is '{}', which is not supported; supported: TemplateProcessing, ByteLevel, Sequence",
         processor.field("type"), type);
  }
}

Bpe read_bpe(TokenizerSpec& spec, const JsonObject& model) {
  BpeOptions options = read_bpe_options(model);
  return {Vocabulary(std::move(spec.vocabulary), model.field("vocab")), spec.merges, std::move(options),
          model.field("merges")};
}

template <typename Part>
Part read_part(const JsonObject& root, const std::string& key) {
  const auto object = root.object_if(key);
  return object ? Part(*object) : Part();
}

fs::path directory_of(const fs::path& model) { return fs::is_directory(model) ? model : model.parent_path(); }

fs::path json_of(const fs::path& model) { return fs::is_directory(model) ? model / "tokenizer.json" : model; }

}  // namespace

Tokenizer::Data::Data(TokenizerSpec spec, TokenizerConfig companions)
    : config(std::move(companions)), bpe(read_bpe(spec, JsonObject(spec.rest, spec.source).object("model"))) {
  const JsonObject root(spec.rest, spec.source);
  normalizer = read_part<Normalizer>(root, "normalizer");
  pre_tokenizer = read_part<PreTokenizer>(root, "pre_tokenizer");
  decoder = read_part<TokenDecoder>(root, "decoder");
  auto tokens = with_companions(read_added_tokens(root, bpe.vocabulary()), config.tokens, bpe.vocabulary(),
                                spec.source);
  check_size(tokens, spec.source);
  added_tokens = AddedTokens(std::move(tokens), normalizer);
  if (const auto processor = root.object_if("post_processor")) {
    Frame frame;
    add_post_processor(*processor, frame, 0);
    before = std::move(frame.before);
    after = std::move(frame.after);
  }

  const auto add_end = [&](Token id) {
    if (std::find(end_tokens.begin(), end_tokens.end(), id) == end_tokens.end()) end_tokens.push_back(id);
  };
  for (const auto& [name, text] : config.special_texts)
    if (name == "eos_token") eos = find(text);
  if (!eos && !config.end_ids.empty()) eos = config.end_ids.front();
  if (eos) add_end(*eos);
  for (const Token id : config.end_ids) add_end(id);
  for (const char* text : end_of_turn) {
    const AddedToken* token = added_tokens.find(text);
    if (token != nullptr && token->special) add_end(token->id);
  }
}

Tokenizer load_tokenizer(const fs::path& model) {
  if (fs::is_regular_file(model) && is_gguf(model)) {
    const GgufFile file(model);
    return Tokenizer(
        std::make_unique<Tokenizer::Data>(tokenizer_spec_from_gguf(file), tokenizer_config_from_gguf(file)));
  }
  const fs::path json = json_of(model);
  if (!fs::exists(json)) {
    std::string other;
    for (const char* name : {"tokenizer.model", "spiece.model", "tekken.json", "vocab.json", "vocab.txt"})
      if (fs::exists(directory_of(model) / name)) other = fmt::format(", not from {}, which is there", name);
    fail(
        "{} is missing: Fathom reads a tokenizer from tokenizer.json (transformers' AutoTokenizer and "
        "save_pretrained write one) or from a GGUF file{}",
        json.string(), other);
  }
  return Tokenizer(std::make_unique<Tokenizer::Data>(read_tokenizer_json(json),
                                                     read_tokenizer_config(directory_of(model))));
}

bool has_tokenizer(const fs::path& model) {
  if (fs::is_regular_file(model) && is_gguf(model)) return has_gguf_tokenizer(GgufFile(model));
  return fs::exists(json_of(model));
}

}  // namespace fathom
