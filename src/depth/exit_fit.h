// Exits that are worth something, of a model that was not trained for them: translators, gates and a
// shortlist, fitted to what the model itself does on a text. No gradient goes through the model, and full
// depth stays what it is.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "base/json.h"
#include "measure/perplexity.h"
#include "model/checkpoint.h"
#include "text/tokenizer.h"

namespace fathom {

struct ExitFitOptions {
  std::vector<std::int64_t> depths;  ///< visits that a token has made at each exit, 1 to depth - 1, ascending
  std::int64_t rank = 0;             ///< of the translators; 0: whole matrices
  std::int64_t shortlist = 0;        ///< tokens that exits choose from; 0: all
  bool gate = false;
  std::int64_t context = 512;  ///< tokens of a window
  Token bos = -1;              ///< what stands before a window; -1: nothing
};

/// What an exit says on the windows that were held out.
struct ExitWorth {
  Perplexity perplexity;
  double agreement = 0;  ///< tokens of which the most probable successor is the one of full depth
};

struct ExitFit {
  std::int64_t depth = 0;
  double ridge = 0;         ///< chosen on the held-out windows
  ExitWorth before, after;  ///< without and with the translator
  double shortlist = 0;  ///< of `after`, agreement of what the exit chooses from the shortlist; 0 without one
  /// Of the gate's probabilities on held-out windows: how often a token that agrees has a higher one than a
  /// token that does not (the area under the ROC curve); 0 without a gate.
  double gate = 0;
};

struct ExitFitReport {
  std::vector<ExitFit> exits;
  Perplexity full;            ///< of full depth on the held-out windows
  std::int64_t tokens = 0;    ///< fitted to
  std::int64_t held_out = 0;  ///< tokens
};

/// Throws UsageError for what the model does not allow.
void check_exit_fit(const Checkpoint& checkpoint, const ExitFitOptions& options);

/// A copy whose plan marks these exits and no others, with what was fitted to them in Checkpoint::exits;
/// tensors are the same. Of every eight windows of the text one is held out.
///
/// - Translator (the "tuned lens": Belrose et al. 2023, arXiv 2303.08112, 3; in closed form): the head reads
///   n + W n + b, n being the state divided by its root mean square. W and b are the ridge regression of
///   (last - n) on n, where `last` is the state after the last visit divided by its own: the final norm sees
///   no more of either. A window's first token, whose state is like no other's, has no say.
/// - Shortlist: the tokens that full depth chooses most often on the text, behind them those that the text
/// has.
/// - Gate: logistic regression (Newton's method) of "the exit's most probable token is the last visit's" on
/// n.
///
/// Shows progress bars. Throws as check_exit_fit(), and Error when the text is shorter than two windows.
Checkpoint fit_exits(const Checkpoint& checkpoint, std::span<const Token> ids, const ExitFitOptions& options,
                     ExitFitReport& report);

/// Perplexity and agreement by exit, before and after.
Json to_json(const ExitFitReport& report);

}  // namespace fathom
