// Which depths share a layer.
#include <algorithm>
#include <iterator>
#include <utility>

#include "base/error.h"
#include "depth/recur.h"

namespace fathom {
namespace {

constexpr std::pair<const char*, Sharing> sharings[] = {{"cycle", Sharing::cycle},
                                                        {"sequence", Sharing::sequence},
                                                        {"middle-cycle", Sharing::middle_cycle},
                                                        {"middle-sequence", Sharing::middle_sequence}};
constexpr std::pair<const char*, SharedInit> shared_inits[] = {{"average", SharedInit::average},
                                                               {"stepwise", SharedInit::stepwise},
                                                               {"lower", SharedInit::lower},
                                                               {"calibrated", SharedInit::calibrated}};
constexpr std::pair<const char*, LoraInit> lora_inits[] = {{"svd", LoraInit::svd}, {"zero", LoraInit::zero}};

template <typename Value, std::size_t count>
Value value_of(const std::string& name, const char* what,
               const std::pair<const char*, Value> (&names)[count]) {
  std::string known_names;
  for (const auto& [known, value] : names) {
    if (name == known) return value;
    known_names += (known_names.empty() ? "" : ", ") + std::string(known);
  }
  fail_usage("{} is '{}', expected one of: {}", what, name, known_names);
}

template <typename Value, std::size_t count>
const char* name_in(Value value, const std::pair<const char*, Value> (&names)[count]) {
  return std::find_if(std::begin(names), std::end(names),
                      [value](const auto& n) { return n.second == value; })
      ->first;
}

}  // namespace

Sharing sharing_from_name(const std::string& name) { return value_of(name, "the sharing", sharings); }
SharedInit shared_init_from_name(const std::string& name) {
  return value_of(name, "the initialisation", shared_inits);
}
LoraInit lora_init_from_name(const std::string& name) {
  return value_of(name, "the LoRA initialisation", lora_inits);
}
const char* name_of(Sharing sharing) { return name_in(sharing, sharings); }
const char* name_of(SharedInit init) { return name_in(init, shared_inits); }
const char* name_of(LoraInit lora) { return name_in(lora, lora_inits); }

std::vector<std::int64_t> share_layers(std::int64_t depth, std::int64_t loops, Sharing sharing) {
  const bool middle = sharing == Sharing::middle_cycle || sharing == Sharing::middle_sequence;
  const bool cycle = sharing == Sharing::cycle || sharing == Sharing::middle_cycle;
  const std::int64_t untied = middle ? 1 : 0;  // at either end
  const std::int64_t tied = depth - 2 * untied;
  if (loops < 1 || tied < 1 || tied % loops != 0) {
    fail_usage(
        "{} loops do not divide the {} layers to tie{}: choose a divisor of them, another sharing, or prune "
        "first",
        loops, tied, middle ? " (all but the first and the last)" : "");
  }
  const std::int64_t unique = tied / loops;
  std::vector<std::int64_t> layers;
  for (std::int64_t l = 0; l < depth; ++l) {
    if (l < untied) {
      layers.push_back(l);
    } else if (l >= depth - untied) {
      layers.push_back(unique + 1);
    } else {
      layers.push_back(untied + (cycle ? (l - untied) % unique : (l - untied) / loops));
    }
  }
  return layers;
}

}  // namespace fathom
