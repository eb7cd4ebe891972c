#include "cli/verbs.h"

namespace fathom {

void add_tokenize(CLI::App&) {}

}  // namespace fathom
