// The main job: profile, restructure within a budget, train with the original as teacher, evaluate, and
// account for it.
#pragma once

#include <filesystem>
#include <string>
#include <vector>

#include "base/json.h"
#include "train/train.h"

namespace fathom {

struct CompressOptions {
  std::filesystem::path model, out;
  std::vector<std::filesystem::path> text;  ///< empty: the model's own samples
  std::filesystem::path eval_text;          ///< empty: a held-out part of the data
  std::string text_format = "auto";         ///< of both: formats/text_format.h
  double target = 0.75;                     ///< fraction of non-embedding parameters to keep, at most
  std::string method = "auto";  ///< prune, recur, auto (both are made; the better after training is kept)
  double minutes = 10;          ///< for the whole job
  Device device = Device::automatic;  ///< trains, and judges where that is a GPU
  std::uint64_t seed = 0;
  bool overwrite = false;
};

/// Carries out the job and writes the model into `out`, with account.json and report.html in it. Returns the
/// account: options, profile, the restructuring and why, training curve, and before / after the cut / after
/// training: parameters, bytes, perplexity, speed of both phases, samples. Stops cleanly when interrupted.
/// Throws Error / UsageError.
Json compress(const CompressOptions& options);

/// The before / after table as rows of cells, the first row being the header.
std::vector<std::vector<std::string>> account_rows(const Json& account);

/// The table at the end of the job, for a terminal.
std::string account_table(const Json& account);

/// report.html's content.
std::string account_report(const Json& account);

}  // namespace fathom
