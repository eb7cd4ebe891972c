// Messages from below that do not know which file they are about.
#pragma once

#include <filesystem>
#include <string_view>
#include <utility>

#include "base/error.h"

namespace fathom {

/// Runs `body` and returns what it does. An Error whose message does not name `file` gets the name in front;
/// wrong usage and interrupts pass as they are.
template <typename Body>
auto about(const std::filesystem::path& file, Body&& body) {
  try {
    return std::forward<Body>(body)();
  } catch (const UsageError&) {
    throw;
  } catch (const Interrupted&) {
    throw;
  } catch (const Error& e) {
    if (std::string_view(e.what()).find(file.string()) != std::string_view::npos) throw;
    fail("{}: {}", file.string(), e.what());
  }
}

}  // namespace fathom
