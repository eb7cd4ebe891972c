#include "measure/windows.h"

#include <algorithm>

#include "base/error.h"

namespace fathom {
namespace {

/// Rows of one forward pass. From some 1,000 rows on, reading the weights is small beside the arithmetic.
constexpr std::int64_t batch_rows = 2048;

std::int64_t windows_in_batch(std::int64_t context) {
  return std::max<std::int64_t>(1, batch_rows / context);
}

}  // namespace

std::vector<float> forward(Engine& engine, const WindowBatch& batch) {
  const auto kept = static_cast<std::int64_t>(batch.targets.size() / batch.inputs.size());
  std::vector<Feed> feeds;
  for (const auto& input : batch.inputs) feeds.push_back({engine.open(), input, kept});
  auto hidden = engine.forward(feeds);
  for (const Feed& feed : feeds) engine.close(feed.sequence);
  return hidden;
}

TextWindows::TextWindows(std::span<const Token> ids, std::int64_t context, Token bos,
                         std::int64_t max_windows, std::int64_t max_context)
    : ids_(ids), context_(context), predictions_(bos >= 0 ? context : context - 1), bos_(bos) {
  if (context < 2 || context > max_context)
    fail_usage("--context is {}, expected 2 to {}, the model's own limit", context, max_context);
  windows_ = static_cast<std::int64_t>(ids.size()) / context;
  if (windows_ == 0)
    fail("the text has {} tokens, fewer than one window of {}: bring more text or a smaller --context",
         ids.size(), context);
  if (max_windows > 0) windows_ = std::min(windows_, max_windows);
}

std::int64_t TextWindows::batches() const {
  const std::int64_t most = windows_in_batch(context_);
  return (windows_ + most - 1) / most;
}

WindowBatch TextWindows::batch(std::int64_t index) const {
  const std::int64_t first = index * windows_in_batch(context_);
  const std::int64_t last = std::min(windows_, first + windows_in_batch(context_));
  WindowBatch batch;
  for (std::int64_t w = first; w < last; ++w) {
    const auto window =
        ids_.subspan(static_cast<std::size_t>(w * context_), static_cast<std::size_t>(context_));
    auto& input = batch.inputs.emplace_back();
    if (bos_ >= 0) input.push_back(bos_);
    // The last token of a window is only predicted, so it is not fed.
    input.insert(input.end(), window.begin(), window.end() - 1);
    for (const Token token : window.last(static_cast<std::size_t>(predictions_)))
      batch.targets.push_back({static_cast<std::int64_t>(batch.targets.size()), token});
  }
  return batch;
}

}  // namespace fathom
