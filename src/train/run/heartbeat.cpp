#include "train/run/heartbeat.h"

#include <exception>
#include <utility>

namespace fathom {

Heartbeat::Heartbeat(Board board, int rank, int ranks, std::chrono::milliseconds interval)
    : board_(std::move(board)), rank_(rank), interval_(interval) {
  state_.silent.resize(static_cast<std::size_t>(ranks));
  thread_ = std::thread([this] { run(); });
}

Heartbeat::~Heartbeat() {
  stop();
  thread_.join();
}

void Heartbeat::stop() {
  std::unique_lock lock(mutex_);
  ends_ = true;
  changed_.notify_all();
  changed_.wait_for(lock, 2 * interval_, [&] { return ended_; });
}

Heartbeat::State Heartbeat::state() const {
  const std::lock_guard lock(mutex_);
  return state_;
}

void Heartbeat::wait_rounds(std::int64_t rounds) const {
  std::unique_lock lock(mutex_);
  const std::int64_t until = state_.rounds + rounds;
  changed_.wait_for(lock, 2 * rounds * interval_,
                    [&] { return state_.board_is_gone || state_.rounds >= until; });
}

void Heartbeat::run() {
  std::vector<std::int64_t> last(state_.silent.size());
  std::unique_lock lock(mutex_);
  while (!ends_ && !state_.board_is_gone) {
    lock.unlock();
    std::vector<std::int64_t> now;
    std::string note;
    bool gone = false;
    try {
      for (int r = 0; r < static_cast<int>(last.size()); ++r)
        now.push_back(board_.add(r, r == rank_ ? 1 : 0));
      note = board_.note();
    } catch (const std::exception&) {
      gone = true;
    }
    lock.lock();
    state_.board_is_gone = gone;
    if (!gone) {
      for (std::size_t r = 0; r < last.size(); ++r) {
        state_.silent[r] = now[r] == last[r] ? state_.silent[r] + 1 : 0;
      }
      last = now;
      state_.note = note;
      ++state_.rounds;
    }
    changed_.notify_all();
    changed_.wait_for(lock, interval_, [&] { return ends_; });
  }
  ended_ = true;
  changed_.notify_all();
}

}  // namespace fathom
