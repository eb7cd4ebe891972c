// The text that `fathom train` trains on and is measured on.
#pragma once

#include <filesystem>
#include <vector>

#include "cli/train_options.h"
#include "corpus/packing.h"
#include "model/checkpoint.h"

namespace fathom {

/// --text as tokens, kept in `work`; without it samples of the teacher (or of the student, where there is
/// none), kept there too. No more is read than the run can learn.
std::vector<MixedSource> training_text(const TrainVerb& verb, const TrainInputs& inputs,
                                       const Tokenizer& tokenizer, const TrainOptions& options,
                                       const std::filesystem::path& work);

/// Some of --text, in memory, for a look before a run; any tokens where there is none.
std::vector<MixedSource> some_text(const TrainVerb& verb, const Checkpoint& student,
                                   const Tokenizer& tokenizer, const TrainOptions& options);

/// The files of --text, in the order in which a run reads them.
std::vector<std::filesystem::path> training_files(const TrainVerb& verb);

/// --eval-text; empty if it was not given.
TokenStore held_out_text(const TrainVerb& verb, const Checkpoint& student, const Tokenizer& tokenizer);

}  // namespace fathom
