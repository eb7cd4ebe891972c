#include "base/file_lock.h"

#include <fcntl.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <chrono>
#include <condition_variable>
#include <cstring>
#include <ctime>
#include <mutex>
#include <optional>
#include <thread>
#include <utility>

#include "base/error.h"
#include "base/interrupt.h"
#include "base/json.h"
#include "base/progress.h"

namespace fathom {
namespace {

namespace fs = std::filesystem;
using namespace std::chrono_literals;

constexpr auto beat = 2s;
// A holder that gives no sign while the file is watched for so long is gone. Machines' clocks differ, so the
// time of the last one says little; but they do not differ by hours.
constexpr std::chrono::seconds patience = 10s, long_gone = 12h;

class Descriptor {
 public:
  explicit Descriptor(int value) : value_(value) {}
  Descriptor(Descriptor&& other) noexcept : value_(std::exchange(other.value_, -1)) {}
  Descriptor& operator=(Descriptor&&) = delete;
  ~Descriptor() {
    if (value_ >= 0) ::close(value_);
  }
  int value() const { return value_; }

 private:
  int value_;
};

std::string machine_name() {
  std::array<char, 256> name{};
  return ::gethostname(name.data(), name.size() - 1) == 0 ? name.data() : "an unknown machine";
}

/// Another one for each start of each machine: names may be shared, and processes are numbered anew.
std::string boot() {
  std::array<char, 64> id{};
  const Descriptor file(::open("/proc/sys/kernel/random/boot_id", O_RDONLY | O_CLOEXEC));
  const ssize_t size = file.value() < 0 ? 0 : ::read(file.value(), id.data(), 36);
  return {id.data(), static_cast<std::size_t>(std::max<ssize_t>(size, 0))};
}

std::string now() {
  const std::time_t time = std::time(nullptr);
  std::tm parts{};
  ::gmtime_r(&time, &parts);
  std::array<char, 32> text{};
  return {text.data(), std::strftime(text.data(), text.size(), "%Y-%m-%d %H:%M UTC", &parts)};
}

/// What the file says of its holder.
struct Holder {
  std::string words, boot;
};

Holder read_holder(int descriptor) {
  std::array<char, 1024> text{};
  const ssize_t size = ::pread(descriptor, text.data(), text.size(), 0);
  const std::string_view content(text.data(), static_cast<std::size_t>(std::max<ssize_t>(size, 0)));
  const Json json = Json::parse(content, nullptr, /*allow_exceptions=*/false);
  const auto field = [&](const char* name) -> std::string {
    const bool there = json.is_object() && json.contains(name) && json[name].is_string();
    return there ? json[name].get<std::string>() : "";
  };
  if (field("boot").empty()) return {"another process", ""};
  return {fmt::format("process {} on {} since {}", field("process"), field("machine"), field("since")),
          field("boot")};
}

struct stat status_of(int descriptor) {
  struct stat status {};
  ::fstat(descriptor, &status);
  return status;
}

bool same_time(const timespec& one, const timespec& other) {
  return one.tv_sec == other.tv_sec && one.tv_nsec == other.tv_nsec;
}

/// Whether the file changes. It is opened anew each time, which makes a network's disk look.
bool gives_signs(const fs::path& path, const timespec& last) {
  for (auto waited = 0ms; waited < patience; waited += 100ms) {
    std::this_thread::sleep_for(100ms);
    const Descriptor file(::open(path.c_str(), O_RDONLY | O_CLOEXEC));
    if (file.value() < 0) return false;  // let go of
    if (!same_time(status_of(file.value()).st_mtim, last)) return true;
  }
  return false;
}

/// Whether the holder, whom the system's lock did not keep out, may still run.
bool runs_elsewhere(const fs::path& path, int descriptor, const Holder& holder, bool system_locks) {
  if (holder.boot.empty() || (system_locks && holder.boot == boot())) return false;
  const timespec last = status_of(descriptor).st_mtim;
  const auto silent = std::chrono::seconds(std::time(nullptr) - last.tv_sec);
  if (silent < long_gone) {
    print_note(fmt::format("{}: left by {}: watching for a sign of life", path.string(), holder.words));
    if (gives_signs(path, last)) return true;
  }
  print_note(fmt::format("{}: {} gives no sign of life any more: taken over", path.string(), holder.words));
  return false;
}

}  // namespace

struct FileLock::State {
  fs::path path;
  std::optional<Descriptor> file;  // while it is held
  std::string holder;
  std::mutex mutex;
  std::condition_variable ended;
  bool ending = false;
  std::thread signs;

  explicit State(fs::path where) : path(std::move(where)) {
    while (!try_once()) {
    }
    if (!file) return;
    const Json words = {{"process", std::to_string(::getpid())},
                        {"machine", machine_name()},
                        {"since", now()},
                        {"boot", boot()}};
    const std::string text = words.dump(1, ' ', false, Json::error_handler_t::replace) + "\n";
    const bool written = ::ftruncate(file->value(), 0) == 0 &&
                         ::pwrite(file->value(), text.data(), text.size(), 0) == std::ssize(text);
    if (!written) fail("{}: cannot write: {}", path.string(), std::strerror(errno));
    signs = std::thread([this] { give_signs(); });
  }

  ~State() {
    if (!signs.joinable()) return;
    {
      const std::lock_guard lock(mutex);
      ending = true;
    }
    ended.notify_all();
    signs.join();
    // Removed before it is let go of: who waits for it sees that it is no longer there (try_once).
    ::unlink(path.c_str());
  }

  /// False when the file went away meanwhile.
  bool try_once() {
    std::error_code error;  // shows in open
    if (path.has_parent_path()) fs::create_directories(path.parent_path(), error);
    Descriptor opened(::open(path.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0644));
    if (opened.value() < 0) {
      if (errno == ENOENT && !error) return false;  // the folder was removed in between
      fail("{}: cannot create: {}", path.string(), std::strerror(errno));
    }
    const bool locked = ::flock(opened.value(), LOCK_EX | LOCK_NB) == 0;
    const bool refused = !locked && errno == EWOULDBLOCK;
    const Holder found = read_holder(opened.value());
    if (refused || runs_elsewhere(path, opened.value(), found, locked)) {
      holder = found.words;
      return true;
    }
    struct stat there {};
    const struct stat own = status_of(opened.value());
    if (::stat(path.c_str(), &there) != 0 || there.st_ino != own.st_ino || there.st_dev != own.st_dev)
      return false;
    file.emplace(std::move(opened));
    return true;
  }

  void give_signs() {
    std::unique_lock lock(mutex);
    while (!ended.wait_for(lock, beat, [this] { return ending; })) ::futimens(file->value(), nullptr);
  }
};

FileLock::FileLock(const fs::path& path) : state_(std::make_unique<State>(path)) {}

FileLock::~FileLock() = default;

bool FileLock::held() const { return state_->file.has_value(); }

const std::string& FileLock::holder() const { return state_->holder; }

std::unique_ptr<FileLock> wait_for_lock(const fs::path& path) {
  for (;;) {
    if (auto lock = std::make_unique<FileLock>(path); lock->held()) return lock;
    check_interrupt();
    std::this_thread::sleep_for(10ms);
  }
}

}  // namespace fathom
