// Memory that begins at a cache line, and where it is large, at a huge page.
#pragma once

#include <sys/mman.h>

#include <algorithm>
#include <cstddef>
#include <new>
#include <type_traits>
#include <vector>

namespace fathom {

struct alignas(64) CacheLine {
  std::byte bytes[64];
};

/// Pages of 2 MB, where the system has them to give: with pages of 4 KB each stretch of 64 lines costs the
/// way through the page tables, which themselves lie in memory when hundreds of megabytes are gone through
/// for every token; and the L2 cache, which goes by physical addresses, holds less of what is scattered (a
/// prompt of 512 is 10 % faster). From `whole_from` bytes on a block gets whole pages of its own: few blocks
/// that are used all the time are worth that, hundreds of a model's matrices would be as much memory again.
template <typename T>
struct HugePageAllocator {
  using value_type = T;
  static constexpr std::size_t huge_page = std::size_t{2} << 20;

  using propagate_on_container_move_assignment = std::true_type;
  using propagate_on_container_swap = std::true_type;
  std::size_t whole_from = huge_page / 8;

  HugePageAllocator() = default;
  explicit HugePageAllocator(std::size_t bytes) : whole_from(bytes) {}
  template <typename U>
  HugePageAllocator(const HugePageAllocator<U>& other) : whole_from(other.whole_from) {}

  T* allocate(std::size_t count) {
    const std::size_t bytes = rounded(count * sizeof(T));
    void* memory = ::operator new(bytes, alignment(bytes));
    if (bytes >= huge_page) ::madvise(memory, bytes, MADV_HUGEPAGE);  // a wish: refusal does no harm
    return static_cast<T*>(memory);
  }
  void deallocate(T* memory, std::size_t count) {
    ::operator delete(memory, alignment(rounded(count * sizeof(T))));
  }
  bool operator==(const HugePageAllocator&) const = default;
  /// What a vector does not give a value has none.
  template <typename U>
  void construct(U* at) {
    ::new (static_cast<void*>(at)) U;
  }
  template <typename U>
  void construct(U* at, const U& value) {
    ::new (static_cast<void*>(at)) U(value);
  }

 private:
  std::size_t rounded(std::size_t bytes) const {
    return bytes < whole_from ? bytes : std::max(bytes, huge_page);
  }
  static std::align_val_t alignment(std::size_t bytes) {
    return std::align_val_t{bytes >= huge_page ? huge_page : alignof(T)};
  }
};

/// Floats that are gone through again and again.
using LargeFloats = std::vector<float, HugePageAllocator<float>>;

class AlignedBuffer {
 public:
  AlignedBuffer() = default;
  /// Zeroed.
  explicit AlignedBuffer(std::size_t bytes) : lines_(lines(bytes), CacheLine{}) {}
  /// Not written at all, in pages that it may share, for those who write all of it, on all threads: the
  /// system gives a page when it is first written, and takes longer for that than packing does.
  static AlignedBuffer unwritten(std::size_t bytes) {
    AlignedBuffer buffer;
    using Allocator = HugePageAllocator<CacheLine>;
    buffer.lines_ = std::vector<CacheLine, Allocator>(lines(bytes), Allocator(Allocator::huge_page));
    return buffer;
  }

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
  static std::size_t lines(std::size_t bytes) { return (bytes + sizeof(CacheLine) - 1) / sizeof(CacheLine); }
  std::vector<CacheLine, HugePageAllocator<CacheLine>> lines_;
};

}  // namespace fathom
