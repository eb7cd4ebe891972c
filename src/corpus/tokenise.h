// Text to tokens, streamed.
#pragma once

#include <functional>

#include "corpus/token_store.h"

namespace fathom {

/// Takes some whole documents: `tokens` with their separators, and where each starts in them.
using TakeTokens =
    std::function<void(std::span<const Token> tokens, std::span<const DocumentStart> documents)>;

/// Gives the input's tokens to `take`, a few megabytes at a time, tokenised on all threads; a document too
/// large for that comes in several calls, of which only the first has its start and the last its separator.
/// The calls do not depend on the number of threads. Errors: read_tokens.
void tokenise(const TextInput& input, const Tokenizer& tokenizer, std::int64_t vocab, const TakeTokens& take);

}  // namespace fathom
