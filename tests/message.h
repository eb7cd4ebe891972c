// What an action that should be refused says.
#pragma once

#include <functional>
#include <string>

#include "base/error.h"

namespace fathom {

inline std::string message(const std::function<void()>& action) {
  try {
    action();
  } catch (const Error& error) {
    return error.what();
  }
  return "no error";
}

}  // namespace fathom
