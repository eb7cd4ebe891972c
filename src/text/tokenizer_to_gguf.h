// The way from a model's tokenizer to the keys of a GGUF file.
#pragma once

#include <cstdint>
#include <filesystem>

#include "formats/gguf_part.h"

namespace fathom {

/// The keys "tokenizer.*" that say what the tokenizer of `model` (a directory, a tokenizer.json or a GGUF
/// file) and its chat template are, with tokens for ids below `vocab_size` that have none, as llama.cpp wants
/// them. Those of a GGUF file are copied; of a model without a tokenizer they say that there is none. Throws
/// Error naming file and field for what they cannot express: a way of cutting text that llama.cpp has no name
/// for, merges that no scores give, tokens around a text other than one before and one behind it. What added
/// tokens do to white space beside them (lstrip, rstrip) and single_word have no key and are left out.
GgufMetadata tokenizer_to_gguf(const std::filesystem::path& model, std::int64_t vocab_size);

}  // namespace fathom
