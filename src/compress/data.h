// The tokens a compression works with: to train on, to calibrate with, and a held-out text to judge by.
#pragma once

#include <filesystem>
#include <vector>

#include "base/json.h"
#include "compress/compress.h"
#include "runtime/engine.h"
#include "text/tokenizer.h"

namespace fathom {

struct Data {
  std::vector<std::vector<Token>> train;
  std::vector<Token> calibration;  ///< a part of `train`, joined
  std::vector<Token> eval;         ///< not in `train`
  Token separator = 0;
  Json account;  ///< where each came from and how large it is
};

/// How much of it a job wants.
struct DataSize {
  std::int64_t context = 512;
  std::int64_t read_tokens = 0;                       ///< of --text, at most
  std::int64_t sample_tokens = 0, sample_batch = 32;  ///< of the model's own corpus
  std::int64_t calibration_tokens = 0, eval_tokens = 0;
};

/// Reads --text, or lets the model write its own corpus with `engine` (kept in `work` and used again by a run
/// that is repeated). The text to judge by is --eval-text, or else the last documents, held out.
Data gather_data(Engine& engine, const Tokenizer& tokenizer, const CompressOptions& options,
                 const DataSize& size, const std::filesystem::path& work);

}  // namespace fathom
