// Keys and values of every sequence at every visit, in pages of 64 positions that a free list recycles and
// that sequences with the same beginning share.
#pragma once

#include <cstdint>
#include <unordered_map>
#include <vector>

#include "kernels/aligned.h"
#include "kernels/backend.h"

namespace fathom {

class KvCache {
 public:
  /// `slots` says for each visit in which slot of a sequence its keys and values lie, counted from 0. Visits
  /// that share one write over each other's. All pages together take at most `limit` bytes; 0: no limit.
  KvCache(const KvLayout& layout, std::vector<std::int64_t> slots, std::int64_t limit = 0);

  const KvLayout& layout() const { return layout_; }
  std::int64_t pages_in_use() const { return allocated_ - unused_ - std::ssize(free_); }
  std::int64_t slots() const { return slots_; }
  /// Positions of one sequence for which the limit is enough.
  std::int64_t most_positions() const { return most_pages_ / slots_ * page_positions; }

  /// A new, empty sequence; numbers of closed ones are used again.
  int open();
  /// A new sequence with the same positions. Their pages are shared until one of the two writes there.
  int fork(int sequence);
  void close(int sequence);
  /// Positions that the sequence has or was promised. Throws Error when there is no such sequence, as all
  /// functions do.
  std::int64_t length(int sequence) const { return at(sequence).length; }

  /// Promises room for `count` more positions at every visit. What is written at positions from `unwritten`
  /// on, of those that are there, no longer is another sequence's, too. Throws Error, before anything is
  /// changed, when that is more than the limit leaves.
  void grow(int sequence, std::int64_t count, std::int64_t unwritten);
  bool can_grow(int sequence, std::int64_t count, std::int64_t unwritten) const {
    return pages_to_grow(sequence, count, unwritten) <= pages_left();
  }
  /// Takes memory for the positions before `end`, which are promised.
  void take(int sequence, std::int64_t end);
  /// Forgets the positions from `length` on; pages that are empty then are free for others.
  void truncate(int sequence, std::int64_t length);
  /// The position is not among those of `visit` and later ones: what comes after it moves up there. Positions
  /// are skipped in their order, and visits have slots of their own.
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
    std::vector<std::vector<std::byte*>> pages;  // [slot][page]
    std::vector<Skip> skips;                     // by position
  };
  const Sequence& at(int sequence) const;
  Sequence& at(int sequence);
  std::vector<std::byte*>& pages_of(int sequence, std::int64_t visit);
  std::size_t first_unwritten_page(int sequence, std::int64_t unwritten) const;
  std::int64_t pages_to_grow(int sequence, std::int64_t count, std::int64_t unwritten) const;
  std::int64_t pages_left() const;
  std::byte* take_page();
  void give_back(std::byte* page);

  KvLayout layout_;
  std::vector<std::int64_t> slot_of_;  // by visit
  std::int64_t slots_;
  std::int64_t most_pages_;
  std::vector<Sequence> sequences_;
  std::unordered_map<std::byte*, std::int64_t> shared_;  // how many sequences more than one have the page
  std::vector<AlignedBuffer> memory_;
  std::int64_t allocated_ = 0;  // pages, used or not
  std::byte* next_ = nullptr;   // of the newest piece of memory
  std::int64_t unused_ = 0;     // pages from there on
  std::vector<std::byte*> free_;
};

}  // namespace fathom
