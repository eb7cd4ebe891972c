// What the tests of the verbs that train share.
#pragma once

#include <signal.h>
#include <spawn.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <fstream>
#include <functional>
#include <string>
#include <thread>
#include <vector>

#include "program.h"

namespace fathom::test {

inline const std::string model = FATHOM_TEST_DATA "/models/llama-text";

/// A scratch folder with some text.
struct Folder : Scratch {
  Folder() {
    std::ofstream text(*this / "a.txt");
    for (int i = 0; i < 300; ++i) text << "Sentence number " << i * 37 % 100 << " of the text. ";
  }
  std::string text() const { return (*this / "a.txt").string(); }
  std::vector<std::string> names() const {
    std::vector<std::string> names;
    for (const auto& entry : std::filesystem::directory_iterator(path()))
      names.push_back(entry.path().filename().string());
    std::sort(names.begin(), names.end());
    return names;
  }
};

inline std::string train_arguments(const Folder& folder, const std::string& out, int steps) {
  return "train " + model + " --threads 1 --context 32 --batch-tokens 64 --tokens " +
         std::to_string(64 * steps) + " --text " + folder.text() + " --out " + (folder / out).string();
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

}  // namespace fathom::test
