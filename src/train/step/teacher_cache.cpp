#include "train/step/teacher_cache.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <span>
#include <utility>

#include "base/error.h"
#include "base/file.h"
#include "base/file_lock.h"
#include "base/fingerprint.h"
#include "base/progress.h"

namespace fathom {
namespace {

namespace fs = std::filesystem;

constexpr std::size_t digest_bytes = 16;
// Logits of the teacher at a time: 50 MB of float32.
constexpr std::int64_t chunk_logits = 12'600'000;

/// False if the file ends before.
bool read_at(int descriptor, std::int64_t offset, std::span<std::byte> bytes, const fs::path& file) {
  while (!bytes.empty()) {
    const ssize_t count = ::pread(descriptor, bytes.data(), bytes.size(), offset);
    if (count < 0 && errno == EINTR) continue;
    if (count < 0) fail("{}: cannot read: {}", file.string(), std::strerror(errno));
    if (count == 0) return false;
    bytes = bytes.subspan(static_cast<std::size_t>(count));
    offset += count;
  }
  return true;
}

void write_at(int descriptor, std::int64_t offset, std::span<const std::byte> bytes, const fs::path& file) {
  while (!bytes.empty()) {
    const ssize_t count = ::pwrite(descriptor, bytes.data(), bytes.size(), offset);
    if (count < 0 && errno == EINTR) continue;
    if (count < 0) {
      fail("{}: cannot write: {}. What is there stays and is used again: make room and resume", file.string(),
           std::strerror(errno));
    }
    bytes = bytes.subspan(static_cast<std::size_t>(count));
    offset += count;
  }
}

std::int64_t learned(const Sequence& sequence) {
  return std::ranges::count_if(sequence.labels, [](Token label) { return label >= 0; });
}

/// Opens top.bin; sees to it that cache.json says what is in it.
int opened(const fs::path& folder, const fs::path& file, const Json& identity) {
  std::error_code error;
  fs::create_directories(folder, error);
  if (error) fail("{}: cannot create the teacher's cache: {}", folder.string(), error.message());
  const fs::path description = folder / "cache.json";
  // Two runs that begin at once would both find no description, and write one each.
  const auto lock = wait_for_lock(folder / "lock");
  if (fs::exists(description)) {
    const std::string other = differences(read_json(description), identity);
    if (!other.empty()) {
      fail(
          "{}: answers of another teacher, or to another text: different {}. Give what they were made from, "
          "name another --teacher-cache, or remove this one",
          folder.string(), other);
    }
  } else {
    write_file(description, identity.dump(2) + "\n");
  }
  const int descriptor = ::open(file.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0644);
  if (descriptor < 0) fail("{}: cannot open: {}", file.string(), std::strerror(errno));
  return descriptor;
}

}  // namespace

TeacherCache::TeacherCache(const fs::path& folder, const Json& identity, const TopForm& form,
                           std::int64_t rows)
    : file_(folder / "top.bin"),
      identity_(identity.dump()),
      form_(form),
      descriptor_(opened(folder, file_, identity)) {
  const std::int64_t missing = form.bytes(rows) - bytes();
  const auto room = static_cast<std::int64_t>(fs::space(folder).available);
  if (missing > room) {
    ::close(descriptor_);
    fail(
        "{}: the teacher's top {} of {} tokens take {} more, {} are free: take a smaller --teacher-top-k, "
        "fewer --tokens, or another disk",
        folder.string(), form.k, format_count(rows), format_bytes(missing), format_bytes(room));
  }
}

TeacherCache::~TeacherCache() { ::close(descriptor_); }

std::int64_t TeacherCache::slot(std::int64_t place) const {
  return place * (static_cast<std::int64_t>(digest_bytes) + form_.bytes(form_.context));
}

std::string TeacherCache::sum(std::span<const std::byte> content) const {
  Fingerprint result;
  result.add(identity_);
  result.add(content);
  return result.hex();
}

std::int64_t TeacherCache::bytes() const {
  struct stat status {};
  return ::fstat(descriptor_, &status) == 0 ? static_cast<std::int64_t>(status.st_blocks) * 512 : 0;
}

bool TeacherCache::read(std::int64_t place, std::int64_t rows, TopTokens& top) {
  std::vector<std::byte> bytes(digest_bytes + static_cast<std::size_t>(form_.bytes(rows)));
  if (!read_at(descriptor_, slot(place), bytes, file_)) return false;
  const auto content = std::span<const std::byte>(bytes).subspan(digest_bytes);
  if (std::memcmp(sum(content).data(), bytes.data(), digest_bytes) != 0) return false;
  const auto count = static_cast<std::size_t>(rows * form_.k), size = top.ids.size();
  const auto half = [&](std::size_t index) {
    std::uint16_t value = 0;
    std::memcpy(&value, content.data() + 2 * index, sizeof value);
    return value;
  };
  const bool narrow = form_.id_bytes() == 2;
  for (std::size_t i = 0; i < count; ++i) {
    const std::uint32_t id = narrow ? half(i) : half(2 * i) | std::uint32_t{half(2 * i + 1)} << 16U;
    if (id >= form_.vocab) {
      top.ids.resize(size);
      return false;
    }
    top.ids.push_back(id);
  }
  for (std::size_t i = 0; i < count; ++i) top.log_probs.push_back(half((narrow ? count : 2 * count) + i));
  return true;
}

void TeacherCache::write(std::int64_t place, const TopTokens& top, std::int64_t first, std::int64_t rows) {
  std::vector<std::uint16_t> halves;
  const auto begin = static_cast<std::size_t>(first * form_.k);
  const auto end = begin + static_cast<std::size_t>(rows * form_.k);
  for (std::size_t i = begin; i < end; ++i) {
    halves.push_back(static_cast<std::uint16_t>(top.ids[i]));
    if (form_.id_bytes() == 4) halves.push_back(static_cast<std::uint16_t>(top.ids[i] >> 16U));
  }
  const auto log_probs = top.log_probs.begin();
  halves.insert(halves.end(), log_probs + static_cast<std::ptrdiff_t>(begin),
                log_probs + static_cast<std::ptrdiff_t>(end));
  const auto content = std::as_bytes(std::span(halves));
  const std::string own = sum(content);
  write_at(descriptor_, slot(place) + static_cast<std::int64_t>(digest_bytes), content, file_);
  write_at(descriptor_, slot(place), std::as_bytes(std::span(own)), file_);
}

CachedTeacher::CachedTeacher(const Checkpoint& teacher, bool bf16, Device device, float temperature,
                             const TopForm& form, std::unique_ptr<TeacherCache> cache)
    : checkpoint_(teacher),
      bf16_(bf16),
      device_(device),
      temperature_(temperature),
      form_(form),
      cache_(std::move(cache)) {}

TopTokens CachedTeacher::top(const std::vector<Sequence>& sequences) {
  TopTokens result{.k = form_.k};
  for (const Sequence& sequence : sequences) {
    const std::int64_t rows = learned(sequence), first = std::ssize(result.ids) / form_.k;
    if (rows == 0 || cache_->read(sequence.place, rows, result)) continue;
    compute(sequence, rows, result);
    cache_->write(sequence.place, result, first, rows);
  }
  return result;
}

void CachedTeacher::compute(const Sequence& sequence, std::int64_t rows, TopTokens& top) {
  if (!teacher_) teacher_ = make_teacher(checkpoint_, form_.context, bf16_, device_);
  teacher_->read({sequence});
  const std::int64_t chunk =
      std::clamp<std::int64_t>(chunk_logits / form_.vocab, 1, std::max<std::int64_t>(rows, 1));
  for (std::int64_t row = 0; row < rows; row += chunk) {
    const std::int64_t count = std::min(chunk, rows - row);
    const at::Tensor logits = teacher_->logits(row, count, /*rounded=*/false).cpu();
    top.append(count, form_.vocab, logits.const_data_ptr<float>(), temperature_);
  }
}

}  // namespace fathom
