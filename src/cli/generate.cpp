#include "cli/verbs.h"

namespace fathom {

void add_generate(CLI::App&) {}

}  // namespace fathom
