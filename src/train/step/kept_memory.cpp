#include "train/step/kept_memory.h"

#include <c10/core/CPUAllocator.h>
#include <malloc.h>

#include <algorithm>
#include <bit>
#include <cstdint>
#include <limits>
#include <map>
#include <memory>
#include <mutex>
#include <unordered_map>
#include <utility>
#include <vector>

#include "kernels/aligned.h"

namespace fathom {
namespace {

/// Keeps tensors' memory from 64 KB on. Lives as long as the program: a tensor may outlive the object that
/// had it made. (c10's CPUCachingAllocator gives nothing back until memory is short.)
class TensorMemory : public c10::Allocator {
 public:
  c10::DataPtr allocate(std::size_t size) override;
  c10::DeleterFnPtr raw_deleter() const override;
  void copy_data(void* to, const void* from, std::size_t size) const override {
    default_copy_data(to, from, size);
  }

  void give_back(void* values) {
    const std::lock_guard lock(mutex_);
    auto block = in_use_.extract(values);
    const std::size_t size = block.mapped().size;
    used_ -= size;
    if (!keeps_ || size < least) return;
    idle_[size].blocks.push_back(std::move(block.mapped().memory));
    idle_bytes_ += size;
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
  using Memory = std::unique_ptr<CacheLine[]>;
  struct Block {
    Memory memory;
    std::size_t size = 0;
  };
  struct Idle {
    std::vector<Memory> blocks;
    std::uint64_t last_wanted = 0;
  };

  // To whole lines, and 1/32 of the power of two below: tensors of about a size take each other's place.
  static std::size_t rounded(std::size_t size) {
    const std::size_t step = std::max(std::bit_floor(size) / 32, sizeof(CacheLine));
    return std::max(size + step - 1, step) / step * step;
  }

  Memory take(std::size_t size) {
    used_ += size;
    peak_ = std::max(peak_, used_);
    if (size >= least) {
      Idle& idle = idle_[size];
      idle.last_wanted = ++wanted_;
      if (!idle.blocks.empty()) {
        Memory memory = std::move(idle.blocks.back());
        idle.blocks.pop_back();
        idle_bytes_ -= size;
        return memory;
      }
      // What is kept must not add up where sizes change from step to step.
      const std::size_t most = peak_ + peak_ / 32;
      if (used_ + idle_bytes_ > most) free_idle(most - used_);
    }
    return std::make_unique_for_overwrite<CacheLine[]>(size / sizeof(CacheLine));
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
      idle.blocks.pop_back();
      idle_bytes_ -= size;
    }
  }

  std::mutex mutex_;
  std::unordered_map<void*, Block> in_use_;  // by where the values begin
  std::map<std::size_t, Idle> idle_;         // by size
  std::uint64_t wanted_ = 0;
  std::size_t used_ = 0, idle_bytes_ = 0, peak_ = 0;
  bool keeps_ = true;
};

TensorMemory& tensor_memory() {
  static TensorMemory memory;
  return memory;
}

void give_back_values(void* values) { tensor_memory().give_back(values); }

c10::DataPtr TensorMemory::allocate(std::size_t size) {
  const std::lock_guard lock(mutex_);
  Memory memory = take(rounded(size));
  void* values = memory.get();
  Block& block = in_use_[values];
  block.memory = std::move(memory);
  block.size = rounded(size);
  return {values, values, &give_back_values, c10::Device(c10::kCPU)};
}

c10::DeleterFnPtr TensorMemory::raw_deleter() const { return &give_back_values; }

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
