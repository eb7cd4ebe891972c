// --repair, of the verbs that change a model's depth.
#pragma once

#include <cstdint>
#include <span>
#include <string>

#include "cli/measuring_text.h"
#include "cli/verbs.h"
#include "depth/repair.h"

namespace fathom {

struct RepairChoice {
  std::string how = "auto";  ///< none, refit, or auto: refit where that is possible
  std::int64_t tokens = 65'536;
};
void add_repair(CLI::App& verb, RepairChoice& choice);

/// Tokens of the text that repairing a change of this model will read; 0: none.
std::int64_t repair_tokens(const RepairChoice& choice, const Checkpoint& original);

/// `changed`, repaired as chosen. Says on standard error why where auto leaves it as it is; throws UsageError
/// where refit was asked for.
Checkpoint repaired(const RepairChoice& choice, const Checkpoint& original, const Checkpoint& changed,
                    std::span<const RepairedVisit> visits, const MeasuringText& text, std::int64_t context);

}  // namespace fathom
