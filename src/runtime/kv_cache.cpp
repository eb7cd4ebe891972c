#include "runtime/kv_cache.h"

#include <algorithm>
#include <utility>

#include "base/error.h"

namespace fathom {

const KvCache::Sequence& KvCache::at(int sequence) const {
  if (sequence < 0 || static_cast<std::size_t>(sequence) >= sequences_.size() ||
      !sequences_[static_cast<std::size_t>(sequence)].open)
    fail("there is no open sequence {}", sequence);
  return sequences_[static_cast<std::size_t>(sequence)];
}

KvCache::Sequence& KvCache::at(int sequence) {
  return const_cast<Sequence&>(std::as_const(*this).at(sequence));
}

int KvCache::open() {
  std::size_t index = 0;
  while (index < sequences_.size() && sequences_[index].open) ++index;
  if (index == sequences_.size()) sequences_.emplace_back().pages.resize(static_cast<std::size_t>(visits_));
  sequences_[index].open = true;
  return static_cast<int>(index);
}

void KvCache::close(int sequence) {
  truncate(sequence, 0);
  at(sequence).open = false;
}

void KvCache::grow(int sequence, std::int64_t count) {
  Sequence& grown = at(sequence);
  const auto needed = static_cast<std::size_t>((grown.length + count + page_positions - 1) / page_positions);
  for (auto& pages : grown.pages)
    while (pages.size() < needed) pages.push_back(take_page());
  grown.length += count;
}

void KvCache::truncate(int sequence, std::int64_t length) {
  Sequence& cut = at(sequence);
  if (length < 0 || length > cut.length)
    fail("sequence {} has {} tokens and cannot be truncated to {}", sequence, cut.length, length);
  cut.length = length;
  std::erase_if(cut.skips, [length](const Skip& skip) { return skip.position >= length; });
  const auto needed = static_cast<std::size_t>((length + page_positions - 1) / page_positions);
  for (auto& pages : cut.pages) {
    free_.insert(free_.end(), pages.begin() + static_cast<std::ptrdiff_t>(std::min(needed, pages.size())),
                 pages.end());
    pages.resize(std::min(needed, pages.size()));
  }
}

void KvCache::skip(int sequence, std::int64_t position, std::int64_t visit) {
  at(sequence).skips.push_back({position, visit});
}

void KvCache::share(int sequence, std::int64_t position, std::int64_t from, std::int64_t to) {
  const std::int64_t own = entry(sequence, from, position), target = entry(sequence, to, position);
  const std::byte* page =
      at(sequence).pages[static_cast<std::size_t>(from)][static_cast<std::size_t>(own / page_positions)];
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
  const auto& pages = at(sequence).pages[static_cast<std::size_t>(visit)];
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
    allocated_ += unused_;
    memory_.emplace_back(static_cast<std::size_t>(unused_ * layout_.page_bytes()));
    next_ = memory_.back().as<std::byte>();
  }
  std::byte* page = next_;
  next_ += layout_.page_bytes();
  --unused_;
  return page;
}

}  // namespace fathom
