// Runs the program as its users do.
#pragma once

#include <gtest/gtest.h>
#include <signal.h>
#include <spawn.h>
#include <sys/wait.h>
#include <unistd.h>

#include <chrono>
#include <cstdio>
#include <fstream>
#include <functional>
#include <iterator>
#include <string>
#include <thread>

#include "base/json.h"
#include "scratch.h"

namespace fathom::test {

struct Run {
  int code = -1;
  std::string out, err;
};

inline Run run_shell(const std::string& command) {
  const Scratch scratch;
  const auto out = scratch / "out", err = scratch / "err";
  const int status = std::system((command + " >" + out.string() + " 2>" + err.string()).c_str());
  const auto content = [](const std::filesystem::path& path) {
    std::ifstream file(path, std::ios::binary);
    return std::string(std::istreambuf_iterator<char>(file), {});
  };
  return {WIFEXITED(status) ? WEXITSTATUS(status) : -1, content(out), content(err)};
}

/// Runs `fathom ARGUMENTS` in a shell (arguments with spaces need their quotes).
inline Run run_program(const std::string& arguments) {
  return run_shell(std::string(FATHOM_PROGRAM) + " " + arguments);
}

/// Starts the program, waits until `ready`, sends the signal and returns the exit code, -1 if there is none.
inline int signalled_code(const std::string& arguments, int signal, const std::function<bool()>& ready) {
  const std::string command = "exec " FATHOM_PROGRAM " " + arguments + " >/dev/null 2>&1";
  const char* const shell[] = {"sh", "-c", command.c_str(), nullptr};
  pid_t child = 0;
  if (::posix_spawn(&child, "/bin/sh", nullptr, nullptr, const_cast<char* const*>(shell), environ) != 0)
    return -1;
  int status = 0;
  while (!ready() && ::waitpid(child, &status, WNOHANG) == 0)
    std::this_thread::sleep_for(std::chrono::milliseconds(5));
  ::kill(child, signal);
  ::waitpid(child, &status, 0);
  return WIFEXITED(status) ? WEXITSTATUS(status) : -1;
}

inline int interrupted_code(const std::string& arguments, const std::function<bool()>& ready) {
  return signalled_code(arguments, SIGINT, ready);
}

/// What a run with `--json -` printed, which must be JSON and nothing else.
inline Json json_of(const Run& run) {
  EXPECT_EQ(run.code, 0) << run.err;
  return parse_json(run.out, "standard output");
}

}  // namespace fathom::test
