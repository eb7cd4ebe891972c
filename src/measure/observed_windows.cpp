#include "measure/observed_windows.h"

#include "base/error.h"
#include "base/interrupt.h"
#include "base/progress.h"

namespace fathom {

std::vector<std::vector<Token>> whole_windows(std::span<const Token> ids, std::int64_t context, Token bos) {
  if (context < 1) fail_usage("the context is {} tokens, expected at least 1", context);
  const std::int64_t count = std::ssize(ids) / context;
  if (count == 0) {
    fail("the text has {} tokens, fewer than one window of {}: give a longer one or a smaller context",
         ids.size(), context);
  }
  std::vector<std::vector<Token>> windows(static_cast<std::size_t>(count));
  for (std::size_t w = 0; w < windows.size(); ++w) {
    if (bos >= 0) windows[w].push_back(bos);
    const auto size = static_cast<std::size_t>(context);
    const auto part = ids.subspan(w * size, size);
    windows[w].insert(windows[w].end(), part.begin(), part.end());
  }
  return windows;
}

void run_windows(Engine& engine, std::span<const Token> ids, std::int64_t context, Token bos,
                 const char* title, Observer& observer) {
  const auto windows = whole_windows(ids, context, bos);
  Progress progress(title, std::ssize(windows) * context, "tok");
  for (const auto& window : windows) {
    check_interrupt();
    const Feed feed{engine.open(), window, 1};
    engine.forward({&feed, 1}, &observer);
    engine.close(feed.sequence);
    progress.advance(context);
  }
}

}  // namespace fathom
