#include "cli/verbs.h"

namespace fathom {

void add_chat(CLI::App&) {}

}  // namespace fathom
