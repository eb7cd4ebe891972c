#include "depth/choose_by_loss.h"

#include <algorithm>
#include <limits>
#include <memory>
#include <utility>

#include "base/error.h"
#include "base/interrupt.h"
#include "base/progress.h"
#include "measure/likelihood.h"
#include "runtime/engine.h"
#include "runtime/model.h"

namespace fathom {
namespace {

/// Mean negative log-likelihood over whole windows of `context` tokens.
double mean_loss(Engine& engine, std::span<const Token> ids, std::int64_t context, Token bos) {
  const std::int64_t scored = bos >= 0 ? context : context - 1;
  double sum = 0;
  std::int64_t tokens = 0;
  for (std::size_t first = 0; first + static_cast<std::size_t>(context) <= ids.size();
       first += static_cast<std::size_t>(context)) {
    check_interrupt();
    const auto window = ids.subspan(first, static_cast<std::size_t>(context));
    std::vector<Token> input;
    if (bos >= 0) input.push_back(bos);
    input.insert(input.end(), window.begin(), window.end() - 1);
    const Feed feed{engine.open(), input, scored};
    const std::vector<float> hidden = engine.forward({&feed, 1});
    engine.close(feed.sequence);
    std::vector<Target> targets;
    for (const Token token : window.last(static_cast<std::size_t>(scored))) {
      targets.push_back({static_cast<std::int64_t>(targets.size()), token});
    }
    for (const TokenScore& score : score_targets(engine, hidden, targets)) sum -= score.log_probability;
    tokens += scored;
  }
  return sum / static_cast<double>(tokens);
}

}  // namespace

VisitChoice choose_by_loss(const Checkpoint& checkpoint, std::int64_t count, std::span<const Token> ids,
                           const ProfileOptions& options) {
  const std::int64_t longest =
      checkpoint.config.max_positions > 0 ? checkpoint.config.max_positions : options.context;
  const std::int64_t context = std::max<std::int64_t>(2, std::min(options.context, longest));
  const std::int64_t tokens = std::max(context, options.max_tokens / 16);
  if (static_cast<std::int64_t>(ids.size()) < context) {
    fail("the text has {} tokens, fewer than one window of {}: give a longer one or a smaller context",
         ids.size(), context);
  }
  const auto text = ids.first(std::min(ids.size(), static_cast<std::size_t>(tokens)));
  const std::int64_t depth = checkpoint.plan.depth();
  // The weights are packed once: a candidate is another plan over them.
  const auto model = std::make_shared<Model>(checkpoint, float_compute(checkpoint));
  Progress progress("choosing by loss", count * depth - count * (count - 1) / 2, "candidates");
  std::vector<std::int64_t> dropped;
  Json losses = Json::array();  // after each step
  for (std::int64_t step = 0; step < count; ++step) {
    double least = std::numeric_limits<double>::infinity();
    std::int64_t best = -1;
    for (std::int64_t visit = 0; visit < depth; ++visit) {
      if (std::find(dropped.begin(), dropped.end(), visit) != dropped.end()) continue;
      DepthPlan candidate = checkpoint.plan;
      candidate.visits.clear();
      for (std::int64_t v = 0; v < depth; ++v)
        if (v != visit && std::find(dropped.begin(), dropped.end(), v) == dropped.end())
          candidate.visits.push_back(checkpoint.plan.visits[static_cast<std::size_t>(v)]);
      Engine engine(model, candidate);
      const double loss = mean_loss(engine, text, context, options.bos);
      if (best < 0 || loss < least) {
        least = loss;
        best = visit;
      }
      progress.advance(1, fmt::format("loss {:.3f} without layer {}", least, best));
    }
    dropped.push_back(best);
    losses.push_back(least);
  }
  std::sort(dropped.begin(), dropped.end());
  return {std::move(dropped), Json{{"loss", std::move(losses)}, {"tokens", text.size()}}};
}

}  // namespace fathom
