#include "corpus/document_encoder.h"

#include "base/error.h"
#include "corpus/conversation.h"

namespace fathom {

DocumentEncoder::DocumentEncoder(const Tokenizer& tokenizer, std::int64_t vocab)
    : tokenizer_(tokenizer), vocab_(vocab) {
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
  if (!tokenizer.chat_template().empty()) template_.emplace(tokenizer.chat_template());
}

std::vector<Token> DocumentEncoder::encode(const Document& document,
                                           const std::filesystem::path& file) const {
  const std::string where =
      document.line == 0 ? file.string() : fmt::format("{}: line {}", file.string(), document.line);
  const bool is_text = document.conversation.is_null();
  if (!is_text && !template_)
    fail("{}: a conversation, but the model has no chat template to render it with", where);
  std::vector<Token> ids = is_text
                               ? tokenizer_.encode(document.text, false)
                               : encode_conversation(tokenizer_, *template_, document.conversation, where);
  for (const Token id : ids) {
    const Token token = id < 0 ? ~id : id;
    if (token < vocab_) continue;
    fail(
        "{}: becomes token {} ('{}'), but the model's vocabulary has {}: the tokenizer is not this model's, "
        "or "
        "names tokens that the model has no embedding for",
        where, token, tokenizer_.piece(token), vocab_);
  }
  return ids;
}

Token DocumentEncoder::separator(const Document& document) const {
  // The end of a text is learned; a conversation's last turn has an end token of its own.
  return document.conversation.is_null() ? *tokenizer_.eos() : ~*tokenizer_.eos();
}

}  // namespace fathom
