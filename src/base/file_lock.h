// The right to write somewhere, which one process has at a time.
#pragma once

#include <filesystem>
#include <memory>
#include <string>

namespace fathom {

/// A lock on a file that is there for nothing else: created (with the folders above it), removed at the end.
/// It says who has it and is given a sign of life every two seconds. The system ends the lock with the
/// process: what a killed one left behind is taken over. Where the system cannot tell whether the holder
/// still runs, which is on another machine or on a disk without locks, the file is watched for some seconds
/// for such a sign.
class FileLock {
 public:
  /// Throws Error when the file cannot be created.
  explicit FileLock(const std::filesystem::path& path);
  ~FileLock();
  FileLock(const FileLock&) = delete;
  FileLock& operator=(const FileLock&) = delete;

  bool held() const;

  /// Who has it where this process has not: "process 4711 on tuna since 2026-05-01 14:03 UTC".
  const std::string& holder() const;

 private:
  struct State;
  std::unique_ptr<State> state_;
};

/// The lock, for what takes a moment: waits for whoever has it. A signal throws Interrupted.
std::unique_ptr<FileLock> wait_for_lock(const std::filesystem::path& path);

}  // namespace fathom
