// Keys and values of every sequence at every visit, in pages of 64 positions that a free list recycles.
#pragma once

#include <cstdint>
#include <vector>

#include "kernels/aligned.h"
#include "kernels/backend.h"

namespace fathom {

class KvCache {
 public:
  KvCache(const KvLayout& layout, std::int64_t visits) : layout_(layout), visits_(visits) {}

  const KvLayout& layout() const { return layout_; }
  std::int64_t pages_in_use() const { return allocated_ - unused_ - std::ssize(free_); }

  /// A new, empty sequence; numbers of closed ones are used again.
  int open();
  void close(int sequence);
  /// Positions that the sequence holds. Throws Error when there is no such sequence, as all functions do.
  std::int64_t length(int sequence) const { return at(sequence).length; }
  /// Makes room for `count` more positions at every visit.
  void grow(int sequence, std::int64_t count);
  /// Forgets the positions from `length` on; pages that are empty then are free for others.
  void truncate(int sequence, std::int64_t length);
  /// The position is not among those of `visit` and later ones: what comes after it moves up there. Positions
  /// are skipped in their order.
  void skip(int sequence, std::int64_t position, std::int64_t visit);
  /// Gives a position at visit `to` the keys and values that it has at visit `from`.
  void share(int sequence, std::int64_t position, std::int64_t from, std::int64_t to);
  /// Which entry at `visit` is the position's: of positions before it that are there, too.
  std::int64_t entry(int sequence, std::int64_t visit, std::int64_t position) const;

  /// The pages of one visit, as AttentionSpan wants them; valid until the sequence grows. Entries
  /// [first, first + count) are written next; what lies behind them in a page that begins among them is of an
  /// earlier use, and becomes zeros: it weighs nothing, but 0 times what may lie there need not be 0.
  std::byte* const* pages_to_write(int sequence, std::int64_t visit, std::int64_t first, std::int64_t count);

 private:
  struct Skip {
    std::int64_t position = 0, visit = 0;
  };
  struct Sequence {
    bool open = false;
    std::int64_t length = 0;
    std::vector<std::vector<std::byte*>> pages;  // [visit][page]
    std::vector<Skip> skips;                     // by position
  };
  const Sequence& at(int sequence) const;
  Sequence& at(int sequence);
  std::byte* take_page();

  KvLayout layout_;
  std::int64_t visits_;
  std::vector<Sequence> sequences_;
  std::vector<AlignedBuffer> memory_;
  std::int64_t allocated_ = 0;  // pages, used or not
  std::byte* next_ = nullptr;   // of the newest piece of memory
  std::int64_t unused_ = 0;     // pages from there on
  std::vector<std::byte*> free_;
};

}  // namespace fathom
