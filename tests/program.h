// Runs the program as its users do.
#pragma once

#include <gtest/gtest.h>
#include <sys/wait.h>

#include <cstdio>
#include <fstream>
#include <iterator>
#include <string>

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

/// What a run with `--json -` printed, which must be JSON and nothing else.
inline Json json_of(const Run& run) {
  EXPECT_EQ(run.code, 0) << run.err;
  return parse_json(run.out, "standard output");
}

}  // namespace fathom::test
