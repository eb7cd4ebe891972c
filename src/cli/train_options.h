// What `fathom train` takes, on the command line or in a file.
#pragma once

#include <CLI/CLI.hpp>
#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "cli/verbs.h"
#include "text/tokenizer.h"
#include "train/train.h"

namespace fathom {

struct TrainVerb {
  CommonOptions common;
  std::string model, out, teacher;

  std::vector<std::string> text;
  std::vector<double> mix;  ///< a weight for each of `text`
  std::string field, text_format = "auto";
  std::int64_t samples = 100'000;

  std::string preset, trainable = "all", base = "full";
  std::vector<std::string> targets = {"gate", "up", "down"};
  bool keep_adapters = false;
  std::optional<std::int64_t> tokens;
  std::optional<double> ce, distil;
  std::string divergence = "forward-kl";
  std::string exits, exit_weighting = "aggressive", exit_curriculum = "all";
  std::optional<double> exit_distil;
  std::string layer_dropout_schedule = "constant", hidden_at = "auto";
  bool no_bf16 = false, teacher_anyway = false;
  std::string device = "auto";
  std::string on_nan = "stop", on_spike = "note";

  std::vector<std::string> held_out, prompts;
  std::int64_t held_out_tokens = 16'384, prompt_tokens = 48;

  std::int64_t show_mask = 0;

  std::string config, resume;
  double rank_timeout = 300;
  bool print_config = false, dry_run = false, overwrite = false;
  TrainOptions training;
};

void add_train_options(CLI::App& app, TrainVerb& verb);

/// `teacher` may be nullptr.
TrainOptions training_options(const TrainVerb& verb, const Checkpoint& student, const Checkpoint* teacher,
                              const Tokenizer& tokenizer);

}  // namespace fathom
