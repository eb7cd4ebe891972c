#include "cli/verbs.h"

namespace fathom {

void add_inspect(CLI::App&) {}

}  // namespace fathom
