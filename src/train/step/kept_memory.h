// Memory that stays the program's from one step to the next.
#pragma once

namespace c10 {
struct Allocator;
}

namespace fathom {

/// Activations are megabytes each, freed and taken again with every layer. By default the C library hands
/// such memory back to the system each time, and every page of it is zeroed and faulted in anew: a tenth of a
/// step. While an object of this lives, it keeps what was freed. And a tensor takes what one of its size
/// left: to find megabytes among all that is free the C library needs some 20 us, 400 times a step, in which
/// one thread works and the others wait.
class KeptMemory {
 public:
  KeptMemory();
  ~KeptMemory();
  KeptMemory(const KeptMemory&) = delete;
  KeptMemory& operator=(const KeptMemory&) = delete;

  /// Leaves to the C library what no tensor holds now: for work of another kind than steps.
  void give_back() const;

 private:
  c10::Allocator* usual_;
};

}  // namespace fathom
