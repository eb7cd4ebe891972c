#include "cli/repair_choice.h"

#include "base/error.h"
#include "cli/about.h"

namespace fathom {

void add_repair(CLI::App& verb, RepairChoice& choice) {
  verb.add_option("--repair", choice.how,
                  "refit: fits the o and down projections that are left to the original's hidden states, in "
                  "closed form; free at run time. none: leaves them. auto: refit where that is possible")
      ->check(CLI::IsMember({"auto", "none", "refit"}))
      ->capture_default_str()
      ->type_name("HOW");
  verb.add_option("--repair-tokens", choice.tokens, "Tokens of the text that a repair is fitted to")
      ->check(CLI::Range(1, most_measuring_tokens))
      ->capture_default_str();
}

std::int64_t repair_tokens(const RepairChoice& choice, const Checkpoint& original) {
  const bool possible = choice.how != "auto" || why_no_repair(original, {}).empty();
  return choice.how == "none" || !possible ? 0 : choice.tokens;
}

Checkpoint repaired(const RepairChoice& choice, const Checkpoint& original, const Checkpoint& changed,
                    std::span<const RepairedVisit> visits, const MeasuringText& text, std::int64_t context) {
  if (choice.how == "none" || visits.empty()) return changed;
  if (const std::string reason = why_no_repair(changed, visits); !reason.empty()) {
    if (choice.how == "refit") fail_usage("--repair refit: {}", reason);
    fmt::print(stderr, "not repaired: {}\n", reason);
    return changed;
  }
  return about(text.origin, [&] {
    return repair(original, changed, visits, text.ids,
                  {.context = context, .max_tokens = choice.tokens, .bos = text.bos});
  });
}

}  // namespace fathom
