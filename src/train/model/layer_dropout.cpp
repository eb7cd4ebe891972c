#include "train/model/layer_dropout.h"

#include <cmath>
#include <numeric>

#include "base/random.h"

namespace fathom {
namespace {

double doubling(std::int64_t position, std::int64_t count) {
  return count > 1 ? std::exp2(static_cast<double>(position) / static_cast<double>(count - 1)) - 1 : 1;
}

/// In [0, 1), by seed, step, sequence and visit.
double draw(std::uint64_t seed, std::int64_t step, std::int64_t position, std::int64_t visit) {
  std::uint64_t mixed = seed;
  for (const std::int64_t part : {step, position, visit}) {
    mixed = Random(mixed ^ static_cast<std::uint64_t>(part)).next();
  }
  return Random(mixed).uniform();
}

}  // namespace

double drop_probability(const LayerDropoutOptions& options, std::int64_t visit, std::int64_t depth,
                        std::int64_t step, std::int64_t steps) {
  const double in_time = options.grows ? doubling(step, steps) : 1;
  return in_time * doubling(visit, depth) * options.rate;
}

KeptSequences kept_sequences(const LayerDropoutOptions& options, std::uint64_t seed, std::int64_t depth,
                             std::int64_t step, std::int64_t steps, std::span<const std::int64_t> positions) {
  if (options.rate == 0) return {};
  KeptSequences result(static_cast<std::size_t>(depth));
  for (std::int64_t visit = 0; visit < depth; ++visit) {
    const double probability = drop_probability(options, visit, depth, step, steps);
    for (std::size_t i = 0; i < positions.size(); ++i) {
      if (draw(seed, step, positions[i], visit) >= probability) {
        result[static_cast<std::size_t>(visit)].push_back(static_cast<std::int64_t>(i));
      }
    }
  }
  return result;
}

at::Tensor on_kept(const at::Tensor& h, std::int64_t length, const std::vector<std::int64_t>& kept,
                   const std::function<at::Tensor(const at::Tensor&)>& body) {
  const std::int64_t width = h.size(1);
  if (std::ssize(kept) * length == h.size(0)) return body(h);
  if (kept.empty()) return h;
  const at::Tensor which = at::tensor(at::ArrayRef<std::int64_t>(kept), at::kLong).to(h.device());
  const at::Tensor all = h.view({-1, length, width});
  const at::Tensor own = body(all.index_select(0, which).view({-1, width}));
  return all.index_copy(0, which, own.view({-1, length, width})).view({-1, width});
}

}  // namespace fathom
