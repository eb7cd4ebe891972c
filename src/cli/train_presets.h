// Settings that healed pruned models of some families, by name.
#pragma once

#include <string>
#include <vector>

namespace fathom {

std::vector<std::string> train_presets();

/// The options of one of them as a configuration (cli/config_file.h).
std::string train_preset(const std::string& name);

}  // namespace fathom
