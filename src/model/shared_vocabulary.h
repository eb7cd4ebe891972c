// Whether two models speak of the same tokens, as a teacher and its student must.
#pragma once

#include <cstdint>
#include <optional>
#include <string>

#include "model/checkpoint.h"
#include "text/tokenizer.h"

namespace fathom {

/// What is one thing with one tokenizer and another with the other: "token 7", "\"a\"", "\"b\"".
struct TokenizerDifference {
  std::string what, own, other;
};

/// The first of them, by ids and then by texts; nothing where all that `own` makes of a text means the same
/// to `other`: its tokens have their ids there, and samples of text become the same tokens. What does not
/// count: tokens that only `other` has, entries that pad a vocabulary ("[PAD151936]" in GGUF files), and
/// whether merges are listed or follow from scores.
std::optional<TokenizerDifference> first_difference(const Tokenizer& own, const Tokenizer& other);

/// The model with the first `tokens` entries of its vocabulary alone. Of a vocabulary that is padded to a
/// rounder size it loses nothing.
Checkpoint with_vocabulary(Checkpoint model, std::int64_t tokens);

}  // namespace fathom
