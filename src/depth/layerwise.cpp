#include "depth/layerwise.h"

#include <algorithm>

#include "base/interrupt.h"
#include "depth/prune.h"
#include "measure/observed_windows.h"
#include "runtime/model.h"
#include "runtime/weights.h"

namespace fathom {
namespace {

/// A model of that visit alone, with a vocabulary of one token: states come from elsewhere.
Checkpoint only_visit(const Checkpoint& checkpoint, std::int64_t visit) {
  Checkpoint one = with_visits(checkpoint, {&visit, 1});
  one.config.vocab_size = 1;
  one.config.tied_embeddings = true;
  one.tensors.erase("lm_head.weight");
  const std::vector<float> none(static_cast<std::size_t>(one.config.hidden_size));
  one.tensors["model.embed_tokens.weight"] = make_tensor(DType::bf16, {1, one.config.hidden_size}, none);
  return one;
}

}  // namespace

LayerwiseStates::LayerwiseStates(const Checkpoint& checkpoint, std::span<const Token> ids,
                                 std::int64_t context, Token bos)
    : width_(checkpoint.config.hidden_size), window_rows_(context + (bos >= 0 ? 1 : 0)) {
  std::vector<Token> tokens;
  for (const auto& window : whole_windows(ids, context, bos))
    tokens.insert(tokens.end(), window.begin(), window.end());
  values_.resize(tokens.size() * static_cast<std::size_t>(width_));
  embed(checkpoint.config, checkpoint.tensor("model.embed_tokens.weight"), tokens, values_.data());
}

std::vector<float> LayerwiseStates::after(const Checkpoint& checkpoint, std::int64_t visit,
                                          Observer* observer) const {
  const Checkpoint one = only_visit(checkpoint, visit);
  Engine engine(one, {.compute = float_compute(one)});
  // Some 2,000 rows at a time: the weights' share of what is read is small then.
  const std::int64_t windows = rows() / window_rows_;
  const std::int64_t at_once = std::max<std::int64_t>(1, 2048 / window_rows_);
  std::vector<float> result;
  result.reserve(values_.size());
  for (std::int64_t first = 0; first < windows; first += at_once) {
    check_interrupt();
    std::vector<Feed> feeds;
    for (std::int64_t w = first; w < std::min(windows, first + at_once); ++w)
      feeds.push_back({.sequence = engine.open(),
                       .tokens = {},
                       .keep = window_rows_,
                       .states = values().subspan(static_cast<std::size_t>(w * window_rows_ * width_),
                                                  static_cast<std::size_t>(window_rows_ * width_))});
    const std::vector<float> out = engine.forward(feeds, observer);
    result.insert(result.end(), out.begin(), out.end());
    for (const Feed& feed : feeds) engine.close(feed.sequence);
  }
  return result;
}

}  // namespace fathom
