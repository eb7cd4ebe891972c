#include "runtime/kv_cache.h"

#include <algorithm>
#include <cstring>
#include <limits>
#include <utility>

#include "base/error.h"
#include "base/progress.h"

namespace fathom {
namespace {

std::int64_t pages_of_positions(std::int64_t positions) {
  return (positions + page_positions - 1) / page_positions;
}

}  // namespace

KvCache::KvCache(const KvLayout& layout, std::vector<std::int64_t> slots, std::int64_t limit)
    : layout_(layout),
      slot_of_(std::move(slots)),
      slots_(slot_of_.empty() ? 1 : std::ranges::max(slot_of_) + 1),
      most_pages_(limit == 0 ? std::numeric_limits<std::int64_t>::max() / page_positions
                             : limit / layout.page_bytes()) {
  if (most_pages_ < slots_)
    fail("keys and values may take {}, but {} tokens of one sequence take {}; allow more",
         format_bytes(limit), page_positions, format_bytes(slots_ * layout.page_bytes()));
}

const KvCache::Sequence& KvCache::at(int sequence) const {
  if (sequence < 0 || static_cast<std::size_t>(sequence) >= sequences_.size() ||
      !sequences_[static_cast<std::size_t>(sequence)].open)
    fail("there is no open sequence {}", sequence);
  return sequences_[static_cast<std::size_t>(sequence)];
}

KvCache::Sequence& KvCache::at(int sequence) {
  return const_cast<Sequence&>(std::as_const(*this).at(sequence));
}

std::vector<std::byte*>& KvCache::pages_of(int sequence, std::int64_t visit) {
  return at(sequence).pages[static_cast<std::size_t>(slot_of_[static_cast<std::size_t>(visit)])];
}

int KvCache::open() {
  std::size_t index = 0;
  while (index < sequences_.size() && sequences_[index].open) ++index;
  if (index == sequences_.size()) sequences_.emplace_back().pages.resize(static_cast<std::size_t>(slots_));
  sequences_[index].open = true;
  return static_cast<int>(index);
}

int KvCache::fork(int sequence) {
  const Sequence same = at(sequence);
  const int copy = open();
  at(copy) = same;
  for (const auto& pages : same.pages)
    for (std::byte* page : pages) ++shared_[page];
  return copy;
}

void KvCache::close(int sequence) {
  truncate(sequence, 0);
  at(sequence).open = false;
}

// Of all visits the earliest: where tokens were skipped before, entries lie further ahead.
std::size_t KvCache::first_unwritten_page(int sequence, std::int64_t unwritten) const {
  return static_cast<std::size_t>(entry(sequence, std::ssize(slot_of_) - 1, unwritten) / page_positions);
}

std::int64_t KvCache::pages_to_grow(int sequence, std::int64_t count, std::int64_t unwritten) const {
  const Sequence& grown = at(sequence);
  std::int64_t needed =
      slots_ * (pages_of_positions(grown.length + count) - pages_of_positions(grown.length));
  if (shared_.empty()) return needed;
  for (const auto& pages : grown.pages)
    for (std::size_t i = first_unwritten_page(sequence, unwritten); i < pages.size(); ++i)
      needed += shared_.contains(pages[i]) ? 1 : 0;
  return needed;
}

// Counted anew each time: of what is kept beside the sequences a difference would stay for ever.
std::int64_t KvCache::pages_left() const {
  std::int64_t promised = 0;
  for (const Sequence& one : sequences_)
    promised += slots_ * (pages_of_positions(one.length) - std::ssize(one.pages.front()));
  return most_pages_ - pages_in_use() - promised;
}

void KvCache::grow(int sequence, std::int64_t count, std::int64_t unwritten) {
  const std::int64_t needed = pages_to_grow(sequence, count, unwritten), left = pages_left();
  if (needed > left)
    fail(
        "{} more positions of a sequence need {} for keys and values, but of the {} that are allowed {} are "
        "left; close other sequences, or allow more",
        count, format_bytes(needed * layout_.page_bytes()), format_bytes(most_pages_ * layout_.page_bytes()),
        format_bytes(left * layout_.page_bytes()));
  Sequence& grown = at(sequence);
  for (auto& pages : grown.pages)
    for (std::size_t i = first_unwritten_page(sequence, unwritten); i < pages.size(); ++i)
      if (shared_.contains(pages[i])) {
        std::byte* own = take_page();
        std::memcpy(own, pages[i], static_cast<std::size_t>(layout_.page_bytes()));
        give_back(std::exchange(pages[i], own));
      }
  grown.length += count;
}

void KvCache::take(int sequence, std::int64_t end) {
  for (auto& pages : at(sequence).pages)
    while (std::ssize(pages) < pages_of_positions(end)) pages.push_back(take_page());
}

void KvCache::truncate(int sequence, std::int64_t length) {
  Sequence& cut = at(sequence);
  if (length < 0 || length > cut.length)
    fail("sequence {} has {} tokens and cannot be truncated to {}", sequence, cut.length, length);
  cut.length = length;
  std::erase_if(cut.skips, [length](const Skip& skip) { return skip.position >= length; });
  for (auto& pages : cut.pages)
    while (std::ssize(pages) > pages_of_positions(length)) {
      give_back(pages.back());
      pages.pop_back();
    }
}

void KvCache::skip(int sequence, std::int64_t position, std::int64_t visit) {
  at(sequence).skips.push_back({position, visit});
}

void KvCache::share(int sequence, std::int64_t position, std::int64_t from, std::int64_t to) {
  const std::int64_t own = entry(sequence, from, position), target = entry(sequence, to, position);
  const std::byte* page = pages_of(sequence, from)[static_cast<std::size_t>(own / page_positions)];
  copy_kv(layout_, page, own % page_positions,
          pages_to_write(sequence, to, target, 1)[target / page_positions], target % page_positions);
}

std::int64_t KvCache::entry(int sequence, std::int64_t visit, std::int64_t position) const {
  return position - std::ranges::count_if(at(sequence).skips, [=](const Skip& skip) {
           return skip.position < position && skip.visit <= visit;
         });
}

std::byte* const* KvCache::pages_to_write(int sequence, std::int64_t visit, std::int64_t first,
                                          std::int64_t count) {
  const auto& pages = pages_of(sequence, visit);
  const std::int64_t end = first + count, last = end / page_positions;
  // Pages that are filled are not cleared before: those of a prompt of 512 tokens are 12 MB.
  if (last * page_positions >= first && end > last * page_positions)
    std::fill_n(pages[static_cast<std::size_t>(last)], layout_.page_bytes(), std::byte{0});
  return pages.data();
}

std::byte* KvCache::take_page() {
  if (unused_ == 0) {
    if (!free_.empty()) {
      std::byte* page = free_.back();
      free_.pop_back();
      return page;
    }
    // As many again as there are, up to 4 MB at a time: large pieces lie in huge pages.
    constexpr std::int64_t most_bytes = std::int64_t{4} << 20;
    unused_ =
        std::clamp<std::int64_t>(allocated_, 1, std::max<std::int64_t>(1, most_bytes / layout_.page_bytes()));
    unused_ = std::min(unused_, most_pages_ - allocated_);
    allocated_ += unused_;
    memory_.emplace_back(static_cast<std::size_t>(unused_ * layout_.page_bytes()));
    next_ = memory_.back().as<std::byte>();
  }
  std::byte* page = next_;
  next_ += layout_.page_bytes();
  --unused_;
  return page;
}

void KvCache::give_back(std::byte* page) {
  const auto found = shared_.find(page);
  if (found == shared_.end())
    free_.push_back(page);
  else if (--found->second == 0)
    shared_.erase(found);
}

}  // namespace fathom
