#include "base/file.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <iterator>
#include <map>
#include <mutex>
#include <utility>

#include "base/error.h"

namespace fathom {
namespace {

class Descriptor {
 public:
  explicit Descriptor(const std::filesystem::path& path)
      : value_(::open(path.c_str(), O_RDONLY | O_CLOEXEC)) {
    if (value_ < 0) fail("{}: cannot open: {}", path.string(), std::strerror(errno));
    if (::fstat(value_, &status_) != 0 || !S_ISREG(status_.st_mode)) {
      ::close(value_);
      fail("{}: not a regular file", path.string());
    }
  }
  ~Descriptor() { ::close(value_); }
  Descriptor(const Descriptor&) = delete;
  Descriptor& operator=(const Descriptor&) = delete;

  int value() const { return value_; }
  const struct stat& status() const { return status_; }
  std::size_t size() const { return static_cast<std::size_t>(status_.st_size); }

 private:
  int value_;
  struct stat status_ {};
};

struct Mapping {
  std::size_t size = 0;
  std::string file;  // which, and its state
};

// Where files are mapped, so that nothing else is ever taken for one.
struct {
  std::mutex mutex;
  std::map<const std::byte*, Mapping> begin;
} mappings;

void unmap(void* address, std::size_t size) {
  const std::lock_guard lock(mappings.mutex);
  mappings.begin.erase(static_cast<const std::byte*>(address));
  ::munmap(address, size);
}

// The mapping that these bytes lie in, or the end; with the mutex held.
auto mapping_of(std::span<const std::byte> bytes) {
  const auto after = mappings.begin.upper_bound(bytes.data());
  if (after == mappings.begin.begin()) return mappings.begin.end();
  const auto mapping = std::prev(after);
  const auto first = static_cast<std::size_t>(bytes.data() - mapping->first);
  return first + bytes.size() <= mapping->second.size ? mapping : mappings.begin.end();
}

std::string identity(const std::filesystem::path& path, const struct stat& status) {
  std::error_code unknown;  // then the path as it is must do
  const auto canonical = std::filesystem::canonical(path, unknown);
  const auto nanoseconds = [](const timespec& time) {
    return fmt::format("{}.{:09}", time.tv_sec, time.tv_nsec);
  };
  return fmt::format("{}, inode {}, {} bytes, modified {}, changed {}", (unknown ? path : canonical).string(),
                     status.st_ino, status.st_size, nanoseconds(status.st_mtim), nanoseconds(status.st_ctim));
}

}  // namespace

MappedFile::MappedFile(const std::filesystem::path& path) : path_(path) {
  const Descriptor file(path);
  const std::size_t size = file.size();
  if (size == 0) return;  // mmap refuses empty files; an empty span says the same
  void* address = ::mmap(nullptr, size, PROT_READ, MAP_PRIVATE, file.value(), 0);
  if (address == MAP_FAILED) fail("{}: cannot map {} bytes: {}", path.string(), size, std::strerror(errno));
  owner_ = std::shared_ptr<const void>(address, [address, size](const void*) { unmap(address, size); });
  bytes_ = {static_cast<const std::byte*>(address), size};
  const std::lock_guard lock(mappings.mutex);
  mappings.begin.emplace(bytes_.data(), Mapping{size, identity(path, file.status())});
}

void release_pages(std::span<const std::byte> bytes) {
  const std::lock_guard lock(mappings.mutex);
  const auto mapping = mapping_of(bytes);
  if (mapping == mappings.begin.end()) return;
  const auto begin = static_cast<std::size_t>(bytes.data() - mapping->first), end = begin + bytes.size();
  // Pages that lie in these bytes as a whole.
  const auto page = static_cast<std::size_t>(::sysconf(_SC_PAGESIZE));
  const std::size_t first = (begin + page - 1) / page * page, last = end / page * page;
  if (first < last) ::madvise(const_cast<std::byte*>(mapping->first) + first, last - first, MADV_DONTNEED);
}

std::string mapped_from(std::span<const std::byte> bytes) {
  const std::lock_guard lock(mappings.mutex);
  const auto mapping = mapping_of(bytes);
  if (mapping == mappings.begin.end()) return "";
  return fmt::format("{}, bytes {} to {}", mapping->second.file, bytes.data() - mapping->first,
                     bytes.data() + bytes.size() - mapping->first);
}

std::string read_file(const std::filesystem::path& path, std::size_t limit) {
  const Descriptor file(path);
  if (file.size() > limit)
    fail("{}: {} bytes, more than the {} that such a file may have", path.string(), file.size(), limit);
  std::string content(file.size(), '\0');
  std::size_t done = 0;
  while (done < content.size()) {
    const ssize_t got = ::read(file.value(), content.data() + done, content.size() - done);
    if (got < 0 && errno == EINTR) continue;
    if (got < 0) fail("{}: cannot read: {}", path.string(), std::strerror(errno));
    if (got == 0) break;
    done += static_cast<std::size_t>(got);
  }
  content.resize(done);
  return content;
}

// A device or a pipe (/dev/null, /dev/stdout) is written as it is: a rename would put a file in its place.
AtomicFile::AtomicFile(std::filesystem::path path) : path_(std::move(path)) {
  const auto status = std::filesystem::status(path_);
  const bool replaceable = !std::filesystem::exists(status) || std::filesystem::is_regular_file(status) ||
                           std::filesystem::is_directory(status);
  temporary_ = path_;
  if (replaceable) temporary_ += ".part";
  descriptor_ = ::open(temporary_.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0644);
  if (descriptor_ < 0) fail("{}: cannot create: {}", temporary_.string(), std::strerror(errno));
}

AtomicFile::~AtomicFile() {
  if (descriptor_ >= 0) {
    ::close(descriptor_);
    if (temporary_ != path_) ::unlink(temporary_.c_str());
  }
}

void AtomicFile::write(std::span<const std::byte> bytes) {
  while (!bytes.empty()) {
    const ssize_t put = ::write(descriptor_, bytes.data(), bytes.size());
    if (put < 0 && errno == EINTR) continue;
    if (put < 0) fail("{}: cannot write: {}", temporary_.string(), std::strerror(errno));
    bytes = bytes.subspan(static_cast<std::size_t>(put));
  }
}

void AtomicFile::commit() {
  const bool replaces = temporary_ != path_;
  const bool flushed = !replaces || ::fsync(descriptor_) == 0;
  const bool closed = ::close(std::exchange(descriptor_, -1)) == 0;
  if (flushed && closed && (!replaces || ::rename(temporary_.c_str(), path_.c_str()) == 0)) return;
  const int reason = errno;
  if (replaces) ::unlink(temporary_.c_str());
  fail("{}: cannot write: {}", path_.string(), std::strerror(reason));
}

void write_file(const std::filesystem::path& path, std::string_view content) {
  AtomicFile file(path);
  file.write(content);
  file.commit();
}

}  // namespace fathom
