#include "runtime/layer.h"

#include <algorithm>

namespace fathom {
namespace {

void show(Observer* observer, Tap tap, const Batch& batch, std::int64_t width, const float* values) {
  if (observer == nullptr) return;
  for (const VisitRows& rows : batch.visits)
    observer->observe(tap, rows.visit, rows.count,
                      std::span(values + rows.row * width, static_cast<std::size_t>(rows.count * width)));
}

GateActivation gate_activation(Activation activation) {
  switch (activation) {
    case Activation::silu:
      return GateActivation::silu;
    case Activation::gelu:
      return GateActivation::gelu;
    case Activation::gelu_tanh:
      return GateActivation::gelu_tanh;
    case Activation::relu:
      break;
  }
  return GateActivation::relu;
}

}  // namespace

KvLayout kv_layout(const ModelConfig& config, Compute compute) {
  return {.kv_heads = config.kv_heads, .head_dim = config.head_dim, .type = compute};
}

LayerRunner::LayerRunner(const ModelConfig& config, const DepthPlan& plan, const Weights& weights,
                         const Backend& backend, Compute compute)
    : config_(config),
      plan_(plan),
      weights_(weights),
      backend_(backend),
      layout_(kv_layout(config, compute)) {
  for (const AttentionType& type : config.attention_types) rotary_.emplace_back(type.rope);
  for (const AdapterWeights& adapter : weights.adapters)
    for (const auto& [a, b] : adapter.pairs)
      if (a != nullptr) widest_rank_ = std::max(widest_rank_, a->out);
}

void LayerRunner::run(const Batch& batch, Observer* observer) {
  reserve(batch.rows);
  const std::int64_t layer = plan_.visits[static_cast<std::size_t>(batch.visits.front().visit)].layer;
  const LayerWeights& weights = weights_.layers[static_cast<std::size_t>(layer)];
  show(observer, Tap::visit_input, batch, config_.hidden_size, batch.hidden);
  attention(weights, batch, observer);
  feed_forward(weights, batch, observer);
  show(observer, Tap::visit_output, batch, config_.hidden_size, batch.hidden);
}

void LayerRunner::attention(const LayerWeights& layer, const Batch& batch, Observer* observer) {
  const std::int64_t hidden = config_.hidden_size, head_dim = config_.head_dim;
  normalise(layer, Norm::attention, batch, 1, hidden, batch.hidden, normed_.data());
  show(observer, Tap::attention_input, batch, hidden, normed_.data());
  apply(layer, Linear::q, batch, normed_.data(), q_.data());
  apply(layer, Linear::k, batch, normed_.data(), k_.data());
  apply(layer, Linear::v, batch, normed_.data(), v_.data());
  if (config_.qk_norm) {
    normalise(layer, Norm::q, batch, config_.heads, head_dim, q_.data(), q_.data());
    normalise(layer, Norm::k, batch, config_.kv_heads, head_dim, k_.data(), k_.data());
  }
  const std::int64_t last = *std::max_element(batch.positions.begin(), batch.positions.end());
  const std::int64_t q_width = config_.heads * head_dim, kv_width = config_.kv_heads * head_dim;
  for (const VisitRows& rows : batch.visits) {
    const Visit& visit = plan_.visits[static_cast<std::size_t>(rows.visit)];
    const AttentionType& type = config_.attention_types[static_cast<std::size_t>(visit.type)];
    const float* table = rotary_[static_cast<std::size_t>(visit.type)].rows(last + 1);
    const std::int64_t* positions = batch.positions.data() + rows.row;
    backend_.rotary(rows.count, config_.heads, head_dim, positions, table, q_.data() + rows.row * q_width);
    backend_.rotary(rows.count, config_.kv_heads, head_dim, positions, table,
                    k_.data() + rows.row * kv_width);
    backend_.store_kv(layout_, rows.spans, k_.data(), v_.data(), kv_width);
    const AttentionShape shape = {.heads = config_.heads,
                                  .query_stride = q_width,
                                  .cache = layout_,
                                  .window = type.window,
                                  .scale = static_cast<float>(config_.attention_scale),
                                  .softcap = static_cast<float>(config_.attention_softcap)};
    backend_.attention(shape, rows.spans, q_.data(), mixed_.data());
  }
  show(observer, Tap::attention_mixed, batch, q_width, mixed_.data());
  apply(layer, Linear::o, batch, mixed_.data(), update_.data());
  if (config_.sandwich_norms)
    normalise(layer, Norm::attention_post, batch, 1, hidden, update_.data(), update_.data());
  show(observer, Tap::attention_update, batch, hidden, update_.data());
  backend_.add(batch.rows * hidden, update_.data(), batch.hidden);
}

void LayerRunner::feed_forward(const LayerWeights& layer, const Batch& batch, Observer* observer) {
  const std::int64_t hidden = config_.hidden_size, intermediate = config_.intermediate_size;
  normalise(layer, Norm::ffn, batch, 1, hidden, batch.hidden, normed_.data());
  show(observer, Tap::ffn_input, batch, hidden, normed_.data());
  apply(layer, Linear::gate, batch, normed_.data(), gate_.data());
  apply(layer, Linear::up, batch, normed_.data(), up_.data());
  backend_.gated_activation(batch.rows, intermediate, gate_activation(config_.activation), gate_.data(),
                            up_.data());
  show(observer, Tap::ffn_gated, batch, intermediate, gate_.data());
  apply(layer, Linear::down, batch, gate_.data(), update_.data());
  if (config_.sandwich_norms)
    normalise(layer, Norm::ffn_post, batch, 1, hidden, update_.data(), update_.data());
  show(observer, Tap::ffn_update, batch, hidden, update_.data());
  backend_.add(batch.rows * hidden, update_.data(), batch.hidden);
}

// y = W x for all rows at once, then each visit's own B (A x) on its rows.
void LayerRunner::apply(const LayerWeights& layer, Linear linear, const Batch& batch, const float* x,
                        float* y) {
  const auto index = static_cast<std::size_t>(linear);
  const PackedLinear& base = *layer.linears[index];
  backend_.linear(base, batch.rows, x, y, false);
  for (const VisitRows& rows : batch.visits) {
    const AdapterWeights* own = adapter(rows);
    if (own == nullptr || own->pairs[index].a == nullptr) continue;
    const auto& [a, b] = own->pairs[index];
    backend_.linear(*a, rows.count, x + rows.row * base.in, low_rank_.data(), false);
    backend_.linear(*b, rows.count, low_rank_.data(), y + rows.row * base.out, true);
  }
}

// Norms over `heads` parts of `width` in each row, with the gains of each visit.
void LayerRunner::normalise(const LayerWeights& layer, Norm norm, const Batch& batch, std::int64_t heads,
                            std::int64_t width, const float* x, float* y) const {
  const auto index = static_cast<std::size_t>(norm);
  for (const VisitRows& rows : batch.visits) {
    const AdapterWeights* own = adapter(rows);
    const std::vector<float>& gain =
        own != nullptr && !own->norms[index].empty() ? own->norms[index] : layer.norms[index];
    const std::int64_t offset = rows.row * heads * width;
    backend_.rms_norm(rows.count * heads, width, x + offset, gain.data(),
                      static_cast<float>(config_.norm_eps), y + offset);
  }
}

void LayerRunner::reserve(std::int64_t rows) {
  if (rows <= reserved_rows_) return;
  reserved_rows_ = rows;
  const auto size = [rows](std::int64_t width) { return static_cast<std::size_t>(rows * width); };
  const std::int64_t kv_width = config_.kv_heads * config_.head_dim;
  normed_.resize(size(config_.hidden_size));
  update_.resize(size(config_.hidden_size));
  q_.resize(size(config_.heads * config_.head_dim));
  mixed_.resize(q_.size());
  k_.resize(size(kv_width));
  v_.resize(size(kv_width));
  gate_.resize(size(config_.intermediate_size));
  up_.resize(gate_.size());
  low_rank_.resize(size(widest_rank_));
}

const AdapterWeights* LayerRunner::adapter(const VisitRows& rows) const {
  const std::int64_t index = plan_.visits[static_cast<std::size_t>(rows.visit)].adapter;
  return index < 0 ? nullptr : &weights_.adapters[static_cast<std::size_t>(index)];
}

}  // namespace fathom
