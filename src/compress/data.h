// The tokens a compression works with: to train on, to calibrate with, and a held-out text to judge by.
#pragma once

#include <filesystem>
#include <vector>

#include "base/json.h"
#include "compress/compress.h"
#include "model/checkpoint.h"
#include "model/tokenizer.h"

namespace fathom {

struct Data {
  std::vector<std::vector<Token>> train;
  std::vector<Token> calibration;  ///< a part of `train`, joined
  std::vector<Token> eval;         ///< not in `train`
  Token separator = 0;
  Json account;  ///< where each came from and how large it is
};

/// Reads --text, or lets the model write its own corpus (kept in `work` and used again by a run that is
/// repeated). The text to judge by is --eval-text, or else the last documents, held out.
Data gather_data(const Checkpoint& original, const Tokenizer& tokenizer, const CompressOptions& options,
                 std::int64_t context, const std::filesystem::path& work);

}  // namespace fathom
