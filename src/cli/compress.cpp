#include "cli/verbs.h"

namespace fathom {

void add_compress(CLI::App&) {}

}  // namespace fathom
