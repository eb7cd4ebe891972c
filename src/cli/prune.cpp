#include "cli/verbs.h"

namespace fathom {

void add_prune(CLI::App&) {}

}  // namespace fathom
