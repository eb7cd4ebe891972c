#include "text/tokenizer.h"

#include <algorithm>

#include "base/error.h"
#include "text/tokenizer_data.h"
#include "text/unicode.h"

namespace fathom {
namespace {

namespace fs = std::filesystem;

constexpr std::size_t longest_text = std::size_t{1} << 30;  // places in a text are 32-bit numbers

}  // namespace

std::optional<Token> Tokenizer::Data::find(std::string_view piece) const {
  if (const AddedToken* token = added_tokens.find(piece)) return token->id;
  return bpe.vocabulary().find(piece);
}

void Tokenizer::Data::encode_part(std::string_view part, bool at_start, std::vector<Token>& out,
                                  Bpe::Cache& cache) const {
  const std::string text = normalizer(std::string(part), at_start);
  for (const auto& [token, begin, end] : added_tokens.split_normalized(text)) {
    if (token) {
      out.push_back(*token);
      continue;
    }
    const CutText cut = pre_tokenizer(text.substr(begin, end - begin), at_start && begin == 0);
    for (const auto& piece : cut.pieces)
      bpe.encode(std::string_view(cut.text).substr(piece.begin, piece.end - piece.begin), out, cache);
  }
}

void Tokenizer::Data::decode_one(Token id, bool skip_special, RunningDecoder& running,
                                 std::string& out) const {
  if (const AddedToken* token = added_tokens.find(id)) {
    if (!skip_special || !token->special) running.push(added_tokens.decoded(*token), out);
  } else if (const std::string* piece = bpe.vocabulary().piece(id)) {
    running.push(*piece, out);
  }
}

Tokenizer::Tokenizer(std::unique_ptr<Data> data) : data_(std::move(data)) {}
Tokenizer::~Tokenizer() = default;
Tokenizer::Tokenizer(Tokenizer&&) noexcept = default;
Tokenizer& Tokenizer::operator=(Tokenizer&&) noexcept = default;

std::vector<Token> Tokenizer::encode(std::string_view text, bool special) const {
  if (text.size() > longest_text)
    fail("a text of {} bytes is too long to encode at once, expected at most {}", text.size(), longest_text);
  std::string repaired;
  if (!is_valid_utf8(text)) {
    append_lossy(repaired, text, true);
    text = repaired;
  }
  std::vector<Token> ids;
  if (special) ids = data_->before;
  Bpe::Cache cache;
  for (const auto& [token, begin, end] : data_->added_tokens.split_raw(text)) {
    if (token) {
      ids.push_back(*token);
    } else {
      data_->encode_part(text.substr(begin, end - begin), begin == 0, ids, cache);
    }
  }
  if (special) ids.insert(ids.end(), data_->after.begin(), data_->after.end());
  return ids;
}

std::vector<Token> Tokenizer::encode_prompt(std::string_view text) const {
  std::vector<Token> ids = encode(text, false);
  ids.insert(ids.begin(), data_->before.begin(), data_->before.end());
  return ids;
}

std::string Tokenizer::decode(std::span<const Token> ids, bool skip_special) const {
  std::string text;
  RunningDecoder running = data_->decoder.start();
  for (const Token id : ids) data_->decode_one(id, skip_special, running, text);
  running.finish(text);
  return text;
}

std::optional<Token> Tokenizer::id(std::string_view piece) const { return data_->find(piece); }

std::string Tokenizer::piece(Token id) const {
  if (const AddedToken* token = data_->added_tokens.find(id)) return token->content;
  const std::string* piece = data_->bpe.vocabulary().piece(id);
  return piece == nullptr ? std::string() : *piece;
}

bool Tokenizer::is_special(Token id) const {
  const AddedToken* token = data_->added_tokens.find(id);
  return token != nullptr && token->special;
}

std::int64_t Tokenizer::size() const {
  std::int64_t end = data_->bpe.vocabulary().end();
  for (const AddedToken& token : data_->added_tokens.all()) end = std::max(end, std::int64_t{token.id} + 1);
  return end;
}

std::optional<Token> Tokenizer::bos() const {
  if (data_->before.empty()) return std::nullopt;
  return data_->before.front();
}

std::optional<Token> Tokenizer::eos() const { return data_->eos; }

const std::vector<Token>& Tokenizer::end_tokens() const { return data_->end_tokens; }

const std::string& Tokenizer::chat_template() const { return data_->config.chat_template; }

std::string Tokenizer::special_text(const std::string& name) const {
  for (const auto& [known, text] : data_->config.special_texts)
    if (known == name) return text;
  return {};
}

StreamDecoder::StreamDecoder(const Tokenizer& tokenizer, bool skip_special)
    : tokenizer_(&tokenizer),
      skip_special_(skip_special),
      running_(std::make_unique<RunningDecoder>(tokenizer.data_->decoder.start())) {}
StreamDecoder::StreamDecoder(const Tokenizer& tokenizer, std::span<const Token> before)
    : StreamDecoder(tokenizer) {
  for (const Token id : before) push(id);
  finish();
}
StreamDecoder::~StreamDecoder() = default;
StreamDecoder::StreamDecoder(StreamDecoder&&) noexcept = default;
StreamDecoder& StreamDecoder::operator=(StreamDecoder&&) noexcept = default;

std::string StreamDecoder::push(Token id) {
  std::string text;
  tokenizer_->data_->decode_one(id, skip_special_, *running_, text);
  return text;
}

std::string StreamDecoder::finish() {
  std::string text;
  running_->finish(text);
  return text;
}

}  // namespace fathom
