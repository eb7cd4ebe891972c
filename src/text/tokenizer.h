// Text to ids and back: byte-level BPE (GPT-2, Llama 3, Qwen, SmolLM) and SentencePiece BPE with byte
// fallback (Llama 2, Gemma), from tokenizer.json or from GGUF's keys. Ids equal those of Hugging Face's
// `tokenizers`.
#pragma once

#include <cstdint>
#include <filesystem>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "base/json.h"

namespace fathom {

using Token = std::int32_t;

class Tokenizer {
 public:
  ~Tokenizer();
  Tokenizer(Tokenizer&&) noexcept;
  Tokenizer& operator=(Tokenizer&&) noexcept;

  /// Ids of UTF-8 `text` (invalid bytes become U+FFFD, as in Python). Added tokens that stand in the text are
  /// recognised
  /// ("<|im_start|>"). `special` adds what the tokenizer's post-processor puts around a text (BOS for Llama 2
  /// and Gemma, nothing for SmolLM).
  /// Throws Error when the text has more than 2^30 bytes.
  std::vector<Token> encode(std::string_view text, bool special = true) const;

  /// Ids of a text that is to be continued: what the post-processor puts before a text stands before it, but
  /// what it puts behind one (an end of text) does not, since nothing that continues the text follows that.
  std::vector<Token> encode_prompt(std::string_view text) const;

  /// Text of ids; ids outside the vocabulary give nothing. `skip_special` leaves out special tokens.
  std::string decode(std::span<const Token> ids, bool skip_special = true) const;

  std::optional<Token> id(std::string_view piece) const;  ///< of a vocabulary entry or an added token
  std::string piece(Token id) const;                      ///< as in tokenizer.json
  bool is_special(Token id) const;
  std::int64_t size() const;  ///< one more than the largest id

  std::optional<Token> bos() const;  ///< put before a text by encode(special), if the tokenizer does that
  std::optional<Token> eos() const;  ///< end of text, what separates documents in training
  /// Every token at which generation stops: eos and end of turn.
  const std::vector<Token>& end_tokens() const;

  /// The chat template's source (Jinja), empty if the model has none.
  const std::string& chat_template() const;
  /// Text of the special tokens that templates name: bos_token, eos_token, ...; empty when absent.
  std::string special_text(const std::string& name) const;

  struct Data;

 private:
  friend Tokenizer load_tokenizer(const std::filesystem::path&);
  friend class StreamDecoder;
  explicit Tokenizer(std::unique_ptr<Data> data);
  std::unique_ptr<Data> data_;
};

/// The tokenizer of a model directory, a tokenizer.json or a GGUF file. Throws Error naming file and field; a
/// tokenizer or pre-tokenizer that is not supported is refused by name.
Tokenizer load_tokenizer(const std::filesystem::path& model);

/// True if there is one beside the model (a directory of only weights is fine for `logits --ids`).
bool has_tokenizer(const std::filesystem::path& model);

/// Files (and a folder) that a tokenizer consists of in a model's directory, in any of the forms that
/// transformers reads.
std::span<const char* const> tokenizer_files();

/// Writes the model's tokenizer into `directory`: a copy of each of its files that is there, whether Fathom
/// reads that form or not, or what is made from GGUF's keys so that transformers loads it. Nothing if there
/// is none.
void save_tokenizer(const std::filesystem::path& model, const std::filesystem::path& directory);

class RunningDecoder;

/// Decodes a stream of tokens; never gives out part of a UTF-8 character, and the pieces joined equal
/// decode() of all. The tokenizer must outlive it.
class StreamDecoder {
 public:
  explicit StreamDecoder(const Tokenizer& tokenizer, bool skip_special = true);
  /// Decodes what follows `before`, whose own text is not given out: the space that some tokenizers drop at
  /// the start of a text stays where it is not the start.
  StreamDecoder(const Tokenizer& tokenizer, std::span<const Token> before);
  ~StreamDecoder();
  StreamDecoder(StreamDecoder&&) noexcept;
  StreamDecoder& operator=(StreamDecoder&&) noexcept;

  /// The text that is certain after one more token; empty while a character is incomplete.
  std::string push(Token id);
  std::string finish();  ///< what was held back, as U+FFFD where it is no character

 private:
  const Tokenizer* tokenizer_;
  bool skip_special_;
  std::unique_ptr<RunningDecoder> running_;
};

}  // namespace fathom
