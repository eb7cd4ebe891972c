#include "runtime/self_corpus.h"

#include <algorithm>
#include <optional>

#include "base/error.h"
#include "base/file.h"
#include "base/interrupt.h"
#include "base/json.h"
#include "base/progress.h"
#include "runtime/decoder.h"
#include "runtime/sampler.h"

namespace fathom {
namespace {

/// How a kind of document starts and ends.
struct Kind {
  Token start = 0;
  bool keep_start = false;  ///< it is part of the document
  std::vector<Token> ends;
};

std::vector<Kind> kinds_of(const Tokenizer& tokenizer) {
  const auto end_of_text = tokenizer.id("<|endoftext|>");
  const auto start = tokenizer.bos() ? tokenizer.bos() : end_of_text ? end_of_text : tokenizer.eos();
  if (!start)
    fail("the tokenizer names neither a beginning nor an end of text to start the model's own texts from");
  Kind text{*start, false, tokenizer.end_tokens()};
  text.ends.push_back(*start);
  std::vector<Kind> kinds = {text};
  // A chat ends its turns with an end token too, so only a new text ends it.
  if (const auto turn = tokenizer.id("<|im_start|>"); turn && turn != start)
    kinds.push_back({*turn, true, {*start}});
  return kinds;
}

/// A document that is being written.
struct Slot {
  const Kind* kind = nullptr;
  std::optional<Sampler> sampler;
  std::vector<Token> document;
  bool ended = false;
  std::int64_t written = 0;  ///< tokens that are not counted yet

  bool ends(Token token, std::int64_t length) const {
    return std::ssize(document) >= length || std::ranges::find(kind->ends, token) != kind->ends.end();
  }
};

class Corpus {
 public:
  Corpus(Engine& engine, const Tokenizer& tokenizer, const SelfCorpusOptions& options)
      : engine_(engine),
        options_(options),
        kinds_(kinds_of(tokenizer)),
        length_(std::min(options.length, engine.max_context() - 1)),
        progress_("the model writes", options.tokens, "tok") {
    if (options.batch < 1 || length_ < 1) fail_usage("documents need a batch and a length of at least 1");
  }

  std::vector<std::vector<Token>> write() {
    slots_.resize(static_cast<std::size_t>(options_.batch));
    Decoder decoder(engine_);
    for (Slot& slot : slots_) begin(slot, decoder);
    while (tokens_ < options_.tokens) step(decoder);
    for (Slot& slot : slots_) finish(slot);
    progress_.finish();
    return std::move(documents_);
  }

 private:
  void begin(Slot& slot, Decoder& decoder) {
    slot.kind = &kinds_[started_ % kinds_.size()];
    // Own random numbers for every document, so that it does not depend on those beside it.
    slot.sampler.emplace(
        SamplerOptions{.temperature = options_.temperature, .seed = Random(options_.seed).next() + started_});
    started_++;
    slot.ended = false;
    const Token start = slot.kind->start;
    if (slot.kind->keep_start) slot.document.push_back(start);
    decoder.add({&start, 1}, [this, &slot](const Prediction& prediction) -> std::optional<Token> {
      const Token token = slot.sampler->pick(prediction.logits, {});
      slot.ended = slot.ends(token, length_);
      if (slot.ended) return {};
      slot.document.push_back(token);
      ++slot.written;
      return token;
    });
  }

  void finish(Slot& slot) {
    if (!slot.document.empty()) documents_.push_back(std::exchange(slot.document, {}));
  }

  /// One layer further of every document. Those that end are counted and begun anew by this thread alone,
  /// in the order of their slots.
  void step(Decoder& decoder) {
    check_interrupt();
    decoder.step();
    std::int64_t written = 0;
    for (Slot& slot : slots_) {
      written += std::exchange(slot.written, 0);
      if (!slot.ended) continue;
      finish(slot);
      begin(slot, decoder);
    }
    tokens_ += written;
    progress_.advance(written);
  }

  Engine& engine_;
  const SelfCorpusOptions& options_;
  std::vector<Kind> kinds_;
  std::int64_t length_;
  Progress progress_;
  std::vector<Slot> slots_;
  std::vector<std::vector<Token>> documents_;
  std::uint64_t started_ = 0;
  std::int64_t tokens_ = 0;
};

Json described(const Engine& engine, const SelfCorpusOptions& options) {
  return {{"length", options.length},
          {"temperature", options.temperature},
          {"seed", options.seed},
          {"vocab", engine.config().vocab_size},
          {"weight_bytes", engine.weight_bytes()}};
}

/// The documents in `file` if they were made as `description` says and are enough.
std::optional<std::vector<std::vector<Token>>> read_kept(const std::filesystem::path& file,
                                                         const Json& description, std::int64_t vocab,
                                                         std::int64_t least_tokens) {
  if (!std::filesystem::exists(file)) return {};
  const std::string content = read_file(file);
  std::vector<std::vector<Token>> documents;
  std::int64_t tokens = 0;
  for (std::size_t at = 0; at < content.size();) {
    const std::size_t end = std::min(content.find('\n', at), content.size());
    const Json json = parse_json(std::string_view(content).substr(at, end - at), file.string());
    at = end + 1;
    const JsonObject line(json, file.string());
    if (documents.empty() && (!line.has("options") || line.at("options") != description)) return {};
    auto& document = documents.emplace_back();
    for (const Json& id : line.array("ids")) {
      if (!id.is_number_integer() || id.get<std::int64_t>() < 0 || id.get<std::int64_t>() >= vocab)
        fail("{} holds {}, expected token ids below {}; remove the file to make it anew", line.field("ids"),
             id.dump(), vocab);
      document.push_back(id.get<Token>());
    }
    tokens += std::ssize(document);
  }
  if (tokens < least_tokens) return {};
  return documents;
}

}  // namespace

std::vector<std::vector<Token>> self_corpus(Engine& engine, const Tokenizer& tokenizer,
                                            const SelfCorpusOptions& options) {
  return Corpus(engine, tokenizer, options).write();
}

std::vector<std::vector<Token>> kept_self_corpus(Engine& engine, const Tokenizer& tokenizer,
                                                 const SelfCorpusOptions& options,
                                                 const std::filesystem::path& file, std::int64_t least) {
  const Json description = described(engine, options);
  if (auto kept =
          read_kept(file, description, engine.config().vocab_size, least > 0 ? least : options.tokens))
    return std::move(*kept);
  auto documents = self_corpus(engine, tokenizer, options);
  std::string lines;
  for (const auto& document : documents) {
    Json line = {{"text", tokenizer.decode(document, false)}, {"ids", document}};
    if (lines.empty()) line["options"] = description;
    lines += line.dump() + "\n";
  }
  write_file(file, lines);
  return documents;
}

}  // namespace fathom
