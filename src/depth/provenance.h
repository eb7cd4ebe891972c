// The account, inside a model, of how it came about.
#pragma once

#include <string>

#include "model/checkpoint.h"

namespace fathom {

/// Appends {command, from, options, measurements} to the checkpoint's provenance; `from` is the name of the
/// directory or file it was read from.
void add_provenance(Checkpoint& checkpoint, const std::string& command, Json options, Json measurements);

}  // namespace fathom
