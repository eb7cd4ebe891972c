// Files: mapped for reading, and replaced as a whole when written.
#pragma once

#include <cstddef>
#include <filesystem>
#include <memory>
#include <span>
#include <string>
#include <string_view>

namespace fathom {

/// A file mapped into memory, read-only. Copies share the mapping; it ends with the last of them.
class MappedFile {
 public:
  /// Throws Error when the file cannot be opened or is not a regular file.
  explicit MappedFile(const std::filesystem::path& path);

  std::span<const std::byte> bytes() const { return bytes_; }
  const std::filesystem::path& path() const { return path_; }
  /// Keeps the mapping alive for views into it.
  std::shared_ptr<const void> owner() const { return owner_; }

 private:
  std::filesystem::path path_;
  std::shared_ptr<const void> owner_;
  std::span<const std::byte> bytes_;
};

/// Gives the memory of bytes that lie in mapped files back to the system until they are read again; others
/// stay as they are. What has been packed into another form is then not in memory twice.
void release_pages(std::span<const std::byte> bytes);

/// Which bytes of which file these are, and in what state that was when it was mapped (path, inode, size,
/// times): tells without reading them whether they are still the same. Empty for bytes of no mapped file.
std::string mapped_from(std::span<const std::byte> bytes);

/// The whole file as a string. Throws Error when it cannot be read or is larger than `limit` bytes.
std::string read_file(const std::filesystem::path& path, std::size_t limit = std::size_t{1} << 30);

/// Writes a file that either has its old content or all of the new one, whatever happens in between: into a
/// temporary file beside it, flushed to the disk, then renamed over it. Throws Error (a full disk, for
/// instance).
class AtomicFile {
 public:
  explicit AtomicFile(std::filesystem::path path);
  ~AtomicFile();  // without commit() the temporary file is removed
  AtomicFile(const AtomicFile&) = delete;
  AtomicFile& operator=(const AtomicFile&) = delete;

  void write(std::span<const std::byte> bytes);
  void write(std::string_view text) { write(std::as_bytes(std::span(text))); }
  void commit();

 private:
  std::filesystem::path path_, temporary_;
  int descriptor_ = -1;
};

/// AtomicFile in one call.
void write_file(const std::filesystem::path& path, std::string_view content);

}  // namespace fathom
