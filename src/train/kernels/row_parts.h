// Rows shared out among the threads.
#pragma once

#include <algorithm>
#include <cstdint>

#include "base/threads.h"

namespace fathom {

// Below so many values a share is sooner done than handed to another thread.
inline constexpr std::int64_t values_worth_a_thread = 16'384;

/// body(part, first, last) for one contiguous share of [0, count) a thread; an item has `width` values.
template <typename Body>
void in_parts(std::int64_t count, std::int64_t width, const Body& body) {
  const std::int64_t parts =
      std::clamp<std::int64_t>(count * width / values_worth_a_thread, 1, thread_count());
  if (parts == 1) return body(0, 0, count);
  parallel_for(parts, [&](std::int64_t part) {
    const std::int64_t first = count * part / parts, last = count * (part + 1) / parts;
    if (first < last) body(part, first, last);
  });
}

}  // namespace fathom
