#include "measure/observed_windows.h"

#include <vector>

#include "base/error.h"
#include "base/interrupt.h"
#include "base/progress.h"

namespace fathom {

void run_windows(Engine& engine, std::span<const Token> ids, std::int64_t context, Token bos,
                 const char* title, Observer& observer) {
  if (context < 1) fail_usage("the context is {} tokens, expected at least 1", context);
  const std::int64_t windows = static_cast<std::int64_t>(ids.size()) / context;
  if (windows == 0) {
    fail("the text has {} tokens, fewer than one window of {}: give a longer one or a smaller context",
         ids.size(), context);
  }
  Progress progress(title, windows * context, "tok");
  std::vector<Token> window;
  for (std::int64_t w = 0; w < windows; ++w) {
    check_interrupt();
    window.clear();
    if (bos >= 0) window.push_back(bos);
    const auto part = ids.subspan(static_cast<std::size_t>(w * context), static_cast<std::size_t>(context));
    window.insert(window.end(), part.begin(), part.end());
    const int sequence = engine.open();
    const Feed feed{sequence, window, 1};
    engine.forward({&feed, 1}, &observer);
    engine.close(sequence);
    progress.advance(context);
  }
}

}  // namespace fathom
