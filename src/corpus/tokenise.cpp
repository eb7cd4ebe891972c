#include "corpus/tokenise.h"

#include <algorithm>
#include <optional>

#include "base/error.h"
#include "base/interrupt.h"
#include "base/progress.h"
#include "base/threads.h"
#include "corpus/conversation.h"
#include "formats/documents.h"

namespace fathom {
namespace {

// A batch: so much text, or so many documents, whatever their length.
constexpr std::size_t batch_bytes = std::size_t{4} << 20, batch_documents = 4096;

class Tokeniser {
 public:
  Tokeniser(const TextInput& input, const Tokenizer& tokenizer, std::int64_t vocab, const TakeTokens& take)
      : input_(input), tokenizer_(tokenizer), vocab_(vocab), take_(take), progress_("tokenising", 0, "tok") {
    if (!tokenizer.chat_template().empty()) template_.emplace(tokenizer.chat_template());
  }

  void run() {
    read_documents(input_.files, input_.reading, [&](Document&& document) {
      bytes_ += document.text.size() + 1;
      batch_.push_back(std::move(document));
      // A token has a byte or more: no batch has many more tokens than are still wanted.
      const auto wanted = static_cast<std::size_t>(input_.most_tokens - total_);
      if (bytes_ >= std::min(batch_bytes, wanted) || batch_.size() >= batch_documents) flush();
      return !enough();
    });
    flush();
    progress_.finish();
    if (total_ == 0) fail("{}: no text in it to train on", input_.files.front().string());
  }

 private:
  bool enough() const { return total_ >= input_.most_tokens; }

  std::string where(const Document& document) const {
    const std::string name = input_.files[static_cast<std::size_t>(document.file)].string();
    return document.line == 0 ? name : fmt::format("{}: line {}", name, document.line);
  }

  std::vector<Token> encode(const Document& document) const {
    if (document.conversation.is_null()) return tokenizer_.encode(document.text, false);
    if (!template_) {
      fail("{}: a conversation, but the model has no chat template to render it with", where(document));
    }
    return encode_conversation(tokenizer_, *template_, document.conversation, where(document));
  }

  void check_vocabulary(const Document& document, std::span<const Token> ids) const {
    for (const Token id : ids) {
      const Token token = id < 0 ? ~id : id;
      if (token < vocab_) continue;
      fail(
          "{}: becomes token {} ('{}'), but the model's vocabulary has {}: the tokenizer is not this "
          "model's, "
          "or names tokens that the model has no embedding for",
          where(document), token, tokenizer_.piece(token), vocab_);
    }
  }

  void flush() {
    check_interrupt();
    std::vector<std::vector<Token>> ids(batch_.size());
    parallel_for(std::ssize(batch_), [&](std::int64_t i) {
      const auto at = static_cast<std::size_t>(i);
      ids[at] = encode(batch_[at]);
      check_vocabulary(batch_[at], ids[at]);
    });
    std::vector<Token> tokens;
    std::vector<DocumentStart> starts;
    for (std::size_t i = 0; i < batch_.size() && !enough(); ++i) {
      const Document& document = batch_[i];
      if (!open_ && !ids[i].empty()) {
        starts.push_back({.token = std::ssize(tokens), .file = document.file, .line = document.line});
        open_ = true;
      }
      tokens.insert(tokens.end(), ids[i].begin(), ids[i].end());
      total_ += std::ssize(ids[i]);
      if (!open_ || (document.more && !enough())) continue;
      // The end of a text is learned; a conversation's last turn has an end token of its own.
      const Token separator = *tokenizer_.eos();
      tokens.push_back(document.conversation.is_null() ? separator : ~separator);
      open_ = false;
    }
    if (!tokens.empty()) take_(tokens, starts);
    progress_.advance(std::ssize(tokens));
    batch_.clear();
    bytes_ = 0;
  }

  const TextInput& input_;
  const Tokenizer& tokenizer_;
  std::int64_t vocab_;
  const TakeTokens& take_;
  std::optional<ChatTemplate> template_;
  Progress progress_;
  std::vector<Document> batch_;
  std::size_t bytes_ = 0;
  std::int64_t total_ = 0;
  bool open_ = false;  ///< a document has begun and not ended
};

}  // namespace

void tokenise(const TextInput& input, const Tokenizer& tokenizer, std::int64_t vocab,
              const TakeTokens& take) {
  if (!tokenizer.eos()) {
    fail(
        "the model's tokenizer names no end-of-text token, which training puts between documents: name one "
        "as eos_token in tokenizer_config.json");
  }
  if (*tokenizer.eos() >= vocab) {
    fail(
        "the tokenizer's end-of-text token '{}' has the id {}, but the model's vocabulary has {}: name one "
        "that the model knows as eos_token in tokenizer_config.json",
        tokenizer.piece(*tokenizer.eos()), *tokenizer.eos(), vocab);
  }
  Tokeniser(input, tokenizer, vocab, take).run();
}

}  // namespace fathom
