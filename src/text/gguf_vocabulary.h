// What the keys tokenizer.ggml.* of a GGUF file mean, for both ways: from them (tokenizer_gguf.cpp) and to
// them (tokenizer_to_gguf.cpp).
#pragma once

#include <optional>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "base/json.h"
#include "text/bpe.h"

namespace fathom {

inline constexpr const char* visible_space = "\u2581";  ///< SentencePiece's

/// tokenizer.ggml.token_type
enum class PieceType : std::int64_t { normal = 1, unknown, control, user_defined, unused, byte };

/// What a value of tokenizer.ggml.pre stands for.
struct Pre {
  Json pre_tokenizer;
  Json normalizer = nullptr;
  bool ignore_merges = false;
  bool add_bos = false;  ///< unless tokenizer.ggml.add_bos_token says
};

/// Names of tokenizer.ggml.pre that mean different things, one for each; and what a name, these or others,
/// means. Nothing for a name that is not supported.
inline constexpr const char* pre_names[] = {"gpt-2", "smollm", "llama-bpe", "qwen2", "default"};
std::optional<Pre> pre_named(const std::string& name);

/// Names of special tokens: tokenizer_config.json's without "_token", and GGUF's without "_token_id".
inline constexpr std::pair<const char*, const char*> special_names[] = {
    {"bos", "bos"},     {"eos", "eos"},       {"unk", "unknown"},
    {"pad", "padding"}, {"sep", "seperator"}, {"mask", "mask"}};

/// The merges that a SentencePiece vocabulary implies: every way to put a piece together from two others, the
/// best scores first. Ties as transformers' convert_slow_tokenizer.generate_merges breaks them: the longer
/// left part, then the longer right part, then the order of ids. `where` ("FILE: key") begins the message of
/// the Error that a piece too long or a score that is no number gives.
Bpe::Merges merges_from_scores(const std::vector<std::string>& pieces, std::span<const PieceType> types,
                               std::vector<double> scores, const std::string& where);

}  // namespace fathom
