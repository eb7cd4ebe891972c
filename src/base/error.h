// The errors that cross Fathom's interfaces. Input from outside always ends in one of these, never in an
// assertion.
#pragma once

#include <fmt/format.h>

#include <stdexcept>
#include <string>
#include <utility>

namespace fathom {

/// Something from outside is wrong. The message names the file, the field, what was found and expected, and
/// the remedy. The program prints it and exits with 1.
class Error : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
};

/// The command line asks for something that makes no sense. Exit code 2.
class UsageError : public Error {
 public:
  using Error::Error;
};

/// The user pressed Ctrl-C (or the process got SIGTERM) and the work stopped cleanly. Exit code 130.
class Interrupted : public Error {
 public:
  Interrupted() : Error("interrupted") {}
};

/// Throws Error with a formatted message.
template <typename... Args>
[[noreturn]] void fail(fmt::format_string<Args...> format, Args&&... args) {
  throw Error(fmt::format(format, std::forward<Args>(args)...));
}

/// Throws UsageError with a formatted message.
template <typename... Args>
[[noreturn]] void fail_usage(fmt::format_string<Args...> format, Args&&... args) {
  throw UsageError(fmt::format(format, std::forward<Args>(args)...));
}

}  // namespace fathom
