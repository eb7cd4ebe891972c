// What a Tokenizer consists of: the stages of encoding and decoding, and which token is which.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "text/added_tokens.h"
#include "text/bpe.h"
#include "text/normalizer.h"
#include "text/pretokenizer.h"
#include "text/token_decoder.h"
#include "text/tokenizer.h"
#include "text/tokenizer_spec.h"

namespace fathom {

struct Tokenizer::Data {
  /// Throws Error naming file and field.
  Data(TokenizerSpec spec, TokenizerConfig companions);

  /// Of an added token or a vocabulary entry.
  std::optional<Token> find(std::string_view piece) const;
  /// Tokens of a part without added tokens that are looked for in raw text.
  void encode_part(std::string_view part, bool at_start, std::vector<Token>& out, Bpe::Cache& cache) const;
  /// Appends what is certain after one more token.
  void decode_one(Token id, bool skip_special, RunningDecoder& running, std::string& out) const;

  TokenizerConfig config;
  Normalizer normalizer;
  PreTokenizer pre_tokenizer;
  TokenDecoder decoder;
  Bpe bpe;
  AddedTokens added_tokens;
  std::vector<Token> before, after;  ///< what the post-processor puts around a text
  std::optional<Token> eos;
  std::vector<Token> end_tokens;
};

}  // namespace fathom
