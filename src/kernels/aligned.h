// Zeroed memory that begins at a cache line.
#pragma once

#include <cstddef>
#include <vector>

namespace fathom {

struct alignas(64) CacheLine {
  std::byte bytes[64];
};

class AlignedBuffer {
 public:
  AlignedBuffer() = default;
  explicit AlignedBuffer(std::size_t bytes) : lines_((bytes + sizeof(CacheLine) - 1) / sizeof(CacheLine)) {}

  std::size_t size() const { return lines_.size() * sizeof(CacheLine); }
  template <typename T>
  T* as() {
    return reinterpret_cast<T*>(lines_.data());
  }
  template <typename T>
  const T* as() const {
    return reinterpret_cast<const T*>(lines_.data());
  }
  /// At least `bytes`; what it held is lost when it grows.
  void reserve(std::size_t bytes) {
    if (size() < bytes) *this = AlignedBuffer(bytes);
  }

 private:
  std::vector<CacheLine> lines_;
};

}  // namespace fathom
