#include "cli/verbs.h"

namespace fathom {

void add_profile(CLI::App&) {}

}  // namespace fathom
