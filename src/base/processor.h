// What the machine calls its processor.
#pragma once

#include <string>

namespace fathom {

/// "AMD EPYC 7763 64-Core Processor"; where the system does not say, the architecture ("aarch64").
std::string processor_name();

}  // namespace fathom
