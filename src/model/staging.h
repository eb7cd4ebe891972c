// Where a file or a directory is made before it is anything.
#pragma once

#include <filesystem>

namespace fathom {

/// A hidden name of this process beside the target: ".NAME.KIND-PID".
std::filesystem::path hidden_sibling(const std::filesystem::path& target, const char* kind);

/// What is written at path() becomes the target by a rename, or is removed at the end.
class Staging {
 public:
  explicit Staging(const std::filesystem::path& target);  ///< removes what was left there
  ~Staging();
  Staging(const Staging&) = delete;
  Staging& operator=(const Staging&) = delete;

  const std::filesystem::path& path() const { return path_; }

 private:
  std::filesystem::path path_;
};

}  // namespace fathom
