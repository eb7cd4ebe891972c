// The bytes of a file of text in a stream, decompressed on the way.
#pragma once

#include <filesystem>
#include <string>
#include <string_view>

#include <memory>

namespace fathom {

/// The bytes of a file, decompressed where they are zstd's (or the name, in any case, ends in .zst). A mark
/// of UTF-8 at the beginning is left out. Memory: some buffers of 128 KB, and the window of a zstd frame,
/// which the library bounds at 128 MB. Everything throws Error naming the file: cannot open or read, a
/// directory, torn or false zstd.
class ByteStream {
 public:
  explicit ByteStream(const std::filesystem::path& path);
  ~ByteStream();
  ByteStream(const ByteStream&) = delete;
  ByteStream& operator=(const ByteStream&) = delete;

  /// How the bytes begin: some 100 KB, or all where there are fewer.
  std::string_view head() const;

  /// The next bytes, from the first on, valid until the next call; empty at the end.
  std::string_view next();

 private:
  struct State;
  std::unique_ptr<State> state_;
};

}  // namespace fathom
