// Conversations as training data: the model learns what the assistant says, not what it is told.
#pragma once

#include <string>
#include <vector>

#include "base/json.h"
#include "text/chat_template.h"
#include "text/tokenizer.h"

namespace fathom {

/// Ids of a conversation as the template renders it. A token that is read but not learned, which is all but
/// what the assistant says, stands as ~id. What it says is what the template's {% generation %} blocks hold,
/// as in transformers. Without such blocks a turn begins where the template's generation prompt ends, as when
/// the model is used, and ends with the first end token behind its words and before the next message's; where
/// none stands there, with what the template writes behind any turn, white space left out. A token that
/// reaches over a border is learned. Throws Error naming `where` when the template fails, or when nothing is
/// learned.
std::vector<Token> encode_conversation(const Tokenizer& tokenizer, const ChatTemplate& chat_template,
                                       const Json& messages, const std::string& where);

}  // namespace fathom
