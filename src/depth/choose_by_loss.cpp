#include "depth/choose_by_loss.h"

#include <algorithm>
#include <limits>
#include <memory>
#include <utility>

#include "base/error.h"
#include "base/interrupt.h"
#include "base/progress.h"
#include "measure/perplexity.h"
#include "runtime/engine.h"
#include "runtime/model.h"

namespace fathom {

VisitChoice choose_by_loss(const Checkpoint& checkpoint, std::int64_t count, std::span<const Token> ids,
                           const ProfileOptions& options) {
  const std::int64_t longest =
      checkpoint.config.max_positions > 0 ? checkpoint.config.max_positions : options.context;
  const std::int64_t context = std::max<std::int64_t>(2, std::min(options.context, longest));
  const std::int64_t tokens = std::max(context, options.max_tokens / 16);
  const auto text = ids.first(std::min(ids.size(), static_cast<std::size_t>(tokens)));
  const TextWindows windows(text, context, options.bos, 0, longest);
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
      const double loss = perplexity(engine, windows).nll;
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
