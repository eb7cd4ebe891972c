// Signs of life: how the processes of a run know of each other that they live.
#pragma once

#include <chrono>
#include <condition_variable>
#include <cstdint>
#include <functional>
#include <mutex>
#include <string>
#include <thread>
#include <vector>

namespace fathom {

/// What all processes see. Any call may throw when whoever keeps it is gone.
struct Board {
  std::function<std::int64_t(int rank, std::int64_t more)>
      add;                            ///< to a rank's number (from 0): its new value
  std::function<std::string()> note;  ///< the note that hangs there; empty if none
};

/// Counts up this rank's number on the board and watches those of the others, in a thread of its own. Rounds
/// are counted, not seconds: when all processes of a machine are stopped for a while, none is taken for dead.
class Heartbeat {
 public:
  Heartbeat(Board board, int rank, int ranks, std::chrono::milliseconds interval);
  ~Heartbeat();
  Heartbeat(const Heartbeat&) = delete;
  Heartbeat& operator=(const Heartbeat&) = delete;

  struct State {
    std::int64_t rounds = 0;           ///< made so far
    std::vector<std::int64_t> silent;  ///< rounds since each rank's last sign of life
    std::string note;
    bool board_is_gone = false;
  };
  State state() const;
  std::chrono::milliseconds interval() const { return interval_; }
  /// Returns when there are so many rounds more, or when the board is gone (or does not answer for as long
  /// again).
  void wait_rounds(std::int64_t rounds) const;
  /// No more rounds. A board that does not answer is not waited for.
  void stop();

 private:
  void run();

  Board board_;
  int rank_;
  std::chrono::milliseconds interval_;
  mutable std::mutex mutex_;
  mutable std::condition_variable changed_;
  State state_;
  bool ends_ = false, ended_ = false;
  std::thread thread_;
};

}  // namespace fathom
