#include "train/kept_memory.h"

#include <c10/core/CPUAllocator.h>
#include <malloc.h>

#include <algorithm>
#include <bit>
#include <cstdlib>
#include <limits>
#include <map>
#include <mutex>
#include <new>
#include <vector>

namespace fathom {
namespace {

/// Keeps tensors' memory from 64 KB on. Lives as long as the program: a tensor may outlive the object that
/// had it made.
class TensorMemory : public c10::Allocator {
 public:
  c10::DataPtr allocate(std::size_t size) override {
    Header* block = size < least ? fresh(size) : take(rounded(size));
    return {block + 1, block + 1, &give_back, c10::Device(c10::kCPU)};
  }
  c10::DeleterFnPtr raw_deleter() const override { return &give_back; }
  void copy_data(void* to, const void* from, std::size_t size) const override {
    default_copy_data(to, from, size);
  }

  /// Whether what is freed from here on is kept.
  void keep(bool keeps) {
    const std::lock_guard lock(mutex_);
    keeps_ = keeps;
    peak_ = used_;
  }
  void free_idle() {
    const std::lock_guard lock(mutex_);
    free_idle(0);
  }

 private:
  static constexpr std::size_t least = 64 << 10;
  // In front of a tensor's values.
  struct alignas(64) Header {
    TensorMemory* owner;
    std::size_t size;
  };
  struct Idle {
    std::vector<Header*> blocks;
    std::uint64_t last_wanted = 0;
  };

  // To 1/32 of the power of two below: tensors of about a size take each other's place.
  static std::size_t rounded(std::size_t size) {
    const std::size_t step = std::bit_floor(size) / 32;
    return (size + step - 1) / step * step;
  }

  Header* fresh(std::size_t size) {
    const std::size_t whole =
        sizeof(Header) + (size + alignof(Header) - 1) / alignof(Header) * alignof(Header);
    void* block = std::aligned_alloc(alignof(Header), whole);
    if (block == nullptr) throw std::bad_alloc();
    return new (block) Header{this, size};
  }

  Header* take(std::size_t size) {
    const std::lock_guard lock(mutex_);
    used_ += size;
    peak_ = std::max(peak_, used_);
    Idle& idle = idle_[size];
    idle.last_wanted = ++wanted_;
    if (!idle.blocks.empty()) {
      Header* block = idle.blocks.back();
      idle.blocks.pop_back();
      idle_bytes_ -= size;
      return block;
    }
    // What is kept must not add up where sizes change from step to step.
    const std::size_t most = peak_ + peak_ / 32;
    if (used_ + idle_bytes_ > most) free_idle(most - used_);
    return fresh(size);
  }

  static void give_back(void* values) {
    Header* block = static_cast<Header*>(values) - 1;
    const auto& [owner, size] = *block;
    if (size < least) return std::free(block);
    const std::lock_guard lock(owner->mutex_);
    owner->used_ -= size;
    if (!owner->keeps_) return std::free(block);
    owner->idle_[size].blocks.push_back(block);
    owner->idle_bytes_ += size;
  }

  // Those that nobody has wanted for longest first, until at most `bytes` are left.
  void free_idle(std::size_t bytes) {
    while (idle_bytes_ > bytes) {
      auto oldest = idle_.end();
      for (auto i = idle_.begin(); i != idle_.end(); ++i) {
        if (i->second.blocks.empty()) continue;
        if (oldest == idle_.end() || i->second.last_wanted < oldest->second.last_wanted) oldest = i;
      }
      auto& [size, idle] = *oldest;
      std::free(idle.blocks.back());
      idle.blocks.pop_back();
      idle_bytes_ -= size;
    }
  }

  std::mutex mutex_;
  std::map<std::size_t, Idle> idle_;  // by size
  std::uint64_t wanted_ = 0;
  std::size_t used_ = 0, idle_bytes_ = 0, peak_ = 0;
  bool keeps_ = true;
};

TensorMemory& tensor_memory() {
  static TensorMemory memory;
  return memory;
}

}  // namespace

KeptMemory::KeptMemory() : usual_(c10::GetCPUAllocator()) {
  mallopt(M_MMAP_THRESHOLD, 32 << 20);  // the most that it takes
  mallopt(M_TRIM_THRESHOLD, std::numeric_limits<int>::max());
  tensor_memory().keep(true);
  c10::SetCPUAllocator(&tensor_memory());
}

void KeptMemory::give_back() const { tensor_memory().free_idle(); }

KeptMemory::~KeptMemory() {
  c10::SetCPUAllocator(usual_);
  tensor_memory().keep(false);
  give_back();
  mallopt(M_MMAP_THRESHOLD, 128 << 10);
  mallopt(M_TRIM_THRESHOLD, 128 << 10);
  malloc_trim(0);
}

}  // namespace fathom
