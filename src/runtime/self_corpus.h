// Texts from the model itself: data for calibration and distillation where the user brings none.
#pragma once

#include <cstdint>
#include <filesystem>
#include <vector>

#include "runtime/engine.h"

namespace fathom {

struct SelfCorpusOptions {
  std::int64_t tokens = 100'000;  ///< at least so many in all
  std::int64_t length = 512;      ///< a document's most
  std::int64_t batch = 32;        ///< sequences side by side
  double temperature = 1.0;
  std::uint64_t seed = 0;
};

/// Documents that the model writes when nothing is asked, sampled at `temperature`, `batch` at a time; a
/// document that ends makes room for the next. They start from BOS or "<|endoftext|>" (else the tokenizer's
/// end of text), as documents of the training data did. Where the vocabulary also has "<|im_start|>", every
/// second one starts from that: a chat, which goes on over the ends of its turns. Neither the start of a text
/// nor its end token is part of a document, as Tokenizer::encode(text, false) has none; a chat's first
/// "<|im_start|>" is. The last `batch` documents are cut when there are enough tokens. Deterministic for
/// options and engine. Shows a progress bar; a signal throws Interrupted. Throws Error if the tokenizer names
/// no start.
std::vector<std::vector<Token>> self_corpus(Engine& engine, const Tokenizer& tokenizer,
                                            const SelfCorpusOptions& options);

/// The documents kept in `file` by an earlier call of the same model, length, temperature and seed (JSON
/// lines with "text" and "ids"; the first also has the options), if they have `least` tokens (options.tokens
/// where it is 0); otherwise makes them and writes the file.
std::vector<std::vector<Token>> kept_self_corpus(Engine& engine, const Tokenizer& tokenizer,
                                                 const SelfCorpusOptions& options,
                                                 const std::filesystem::path& file, std::int64_t least = 0);

}  // namespace fathom
