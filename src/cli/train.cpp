#include "cli/verbs.h"

namespace fathom {

void add_train(CLI::App&) {}

}  // namespace fathom
