// What early exits cost on a text, and what they spare.
#pragma once

#include <cstdint>
#include <span>
#include <string>

#include "measure/perplexity.h"
#include "runtime/decoder.h"

namespace fathom {

struct ExitQuality {
  Perplexity perplexity;  ///< of predictions made where each token left
  double visits = 0;      ///< a token makes
  double agreement = 0;   ///< tokens of which the most probable successor is the one of full depth
};

/// Windows of a text (measure/windows.h) token by token, as they would have been generated: a window's first
/// token has full depth, the others leave by the rule, and later ones see what it left. What full depth would
/// choose is known here: the oracle may be asked. Shows a progress bar.
ExitQuality exit_quality(Engine& engine, std::span<const Token> ids, std::int64_t context, Token bos,
                         std::int64_t max_windows, const DecoderOptions& options);

/// The loosest threshold of a rule ("margin") at which so many of the tokens agree with full depth on the
/// text: by bisection, to a thousandth of the rule's range. Throws UsageError for rules without a range.
double calibrate_exit(Engine& engine, std::span<const Token> ids, std::int64_t context, Token bos,
                      std::int64_t max_windows, const std::string& rule, ExitedKv policy, double agreement);

}  // namespace fathom
