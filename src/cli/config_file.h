// A verb's options as a TOML file: the key is the option's long name, "model" for MODEL.
#pragma once

#include <CLI/CLI.hpp>
#include <filesystem>
#include <string>

namespace fathom {

/// Gives the verb every option in `file` that the command line did not. Options that are not `configurable`
/// cannot be in a file. Throws UsageError naming file, line and key: no TOML, an unknown key (with the
/// nearest known one), a value that the option does not take.
void read_config(CLI::App& verb, const std::filesystem::path& file);

/// The same of a text of ours; `origin` names it in messages.
void read_settings(CLI::App& verb, const std::string& text, const std::string& origin);

/// The verb's configurable options as such a file: those that are set, and as comments the defaults of the
/// others; each with its description.
std::string written_config(const CLI::App& verb);

/// Makes an option's paths absolute in what written_config writes, so that the file means the same wherever
/// it is read.
void make_absolute(CLI::Option& option);

}  // namespace fathom
