// Conversations as training data: the model learns what the assistant says, not what it is told.
#pragma once

#include <string>
#include <vector>

#include "base/json.h"
#include "model/chat_template.h"
#include "model/tokenizer.h"

namespace fathom {

/// Ids of a conversation as the template renders it. A token that is read but not learned, which is all but
/// the assistant's turns, each to its end token, stands as ~id. A turn starts where the template's generation
/// prompt ends, as when the model is used. Throws Error naming `where` when the template fails, or renders
/// the start of the conversation otherwise than the whole, so that a turn cannot be found in it, or when the
/// assistant says nothing.
std::vector<Token> encode_conversation(const Tokenizer& tokenizer, const ChatTemplate& chat_template,
                                       const Json& messages, const std::string& where);

}  // namespace fathom
