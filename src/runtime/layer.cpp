#include "runtime/layer.h"

#include <algorithm>

#include "kernels/bf16.h"

namespace fathom {
namespace {

void show(Observer* observer, Tap tap, const Batch& batch, std::int64_t width, const float* values) {
  if (observer == nullptr) return;
  for (const VisitRows& rows : batch.visits)
    observer->observe(tap, rows.visit, rows.count,
                      std::span(values + rows.row * width, static_cast<std::size_t>(rows.count * width)));
}

void show(Observer* observer, Tap tap, const Batch& batch, ConstRows values) {
  if (observer == nullptr) return;
  if (values.type == Compute::f32) return show(observer, tap, batch, values.width, values.row<float>(0));
  std::vector<float> wide(static_cast<std::size_t>(batch.rows * values.width));
  for (std::int64_t r = 0; r < batch.rows; ++r)
    std::transform(values.row<std::uint16_t>(r), values.row<std::uint16_t>(r) + values.width,
                   wide.begin() + r * values.width, from_bf16);
  show(observer, tap, batch, values.width, wide.data());
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

LayerRunner::LayerRunner(const ModelConfig& config, const DepthPlan& plan, const Weights& weights,
                         const Backend& backend, const LayerTypes& types)
    : config_(config),
      plan_(plan),
      weights_(weights),
      backend_(backend),
      layout_(types.cache),
      normed_(types.rows),
      mixed_(types.rows),
      gated_(types.rows),
      low_rank_(types.rows) {
  for (const AttentionType& type : config.attention_types) rotary_.emplace_back(type.rope);
}

void LayerRunner::run(const Batch& batch, Observer* observer) {
  reserve(batch.rows);
  const std::int64_t layer = plan_.visits[static_cast<std::size_t>(batch.visits.front().visit)].layer;
  const LayerWeights& weights = weights_.layers[static_cast<std::size_t>(layer)];
  show(observer, Tap::visit_input, batch, config_.hidden_size, batch.hidden);
  attention(weights, batch, observer);
  feed_forward(weights, batch.whole(), observer);
  show(observer, Tap::visit_output, batch, config_.hidden_size, batch.hidden);
}

void LayerRunner::attention(const LayerWeights& layer, const Batch& batch, Observer* observer) {
  const std::int64_t head_dim = config_.head_dim;
  const std::int64_t q_width = config_.heads * head_dim, kv_width = config_.kv_heads * head_dim;
  const std::int64_t stride = q_width + 2 * kv_width;  // a row holds its queries, keys and values
  float* q = qkv_.data();
  float* k = q + q_width;
  float* v = k + kv_width;
  const Rows normed = normed_.rows(batch.rows, config_.hidden_size), mixed = mixed_.rows(batch.rows, q_width);
  normalise(layer, Norm::attention, batch, batch.hidden, normed);
  show(observer, Tap::attention_input, batch, normed);
  for (float* to = q; const auto& part : layer.qkv) {
    backend_.linear(*part, batch.rows, normed, to, stride, false);
    to += part->out;
  }
  add_adapters(Linear::q, batch, normed, q, stride);
  add_adapters(Linear::k, batch, normed, k, stride);
  add_adapters(Linear::v, batch, normed, v, stride);
  if (config_.qk_norm) {
    normalise_heads(layer, Norm::q, batch, config_.heads, q, stride);
    normalise_heads(layer, Norm::k, batch, config_.kv_heads, k, stride);
  }
  const std::int64_t last = *std::max_element(batch.positions.begin(), batch.positions.end());
  for (const VisitRows& rows : batch.visits) {
    const Visit& visit = plan_.visits[static_cast<std::size_t>(rows.visit)];
    const float* table = rotary_[static_cast<std::size_t>(visit.type)].rows(last + 1);
    // Keys lie right behind the queries: one pass turns both.
    backend_.rotary(rows.count, config_.heads + config_.kv_heads, head_dim, batch.positions.data() + rows.row,
                    table, q + rows.row * stride, stride);
    if (rows.row >= batch.full) backend_.store_kv(layout_, rows.spans, k, v, stride);
  }
  const Batch whole = batch.whole();
  for (const VisitRows& rows : whole.visits) {
    const Visit& visit = plan_.visits[static_cast<std::size_t>(rows.visit)];
    const AttentionShape shape = {
        .heads = config_.heads,
        .query_stride = stride,
        .cache = layout_,
        .window = config_.attention_types[static_cast<std::size_t>(visit.type)].window,
        .scale = static_cast<float>(config_.attention_scale),
        .softcap = static_cast<float>(config_.attention_softcap)};
    backend_.attention(shape, rows.spans, q, {.keys = k, .values = v, .stride = stride}, mixed);
  }
  show(observer, Tap::attention_mixed, whole, mixed);
  const Update update = {*layer.o, Linear::o, Norm::attention_post, Tap::attention_update};
  add_update(layer, update, whole, mixed, observer);
}

void LayerRunner::feed_forward(const LayerWeights& layer, const Batch& batch, Observer* observer) {
  const std::int64_t intermediate = config_.intermediate_size;
  const Rows normed = normed_.rows(batch.rows, config_.hidden_size);
  const Rows gated = gated_.rows(batch.rows, intermediate);
  normalise(layer, Norm::ffn, batch, batch.hidden, normed);
  show(observer, Tap::ffn_input, batch, normed);
  const float* addend = nullptr;  // what adapters add before the activation
  if (has_adapter(Linear::gate, batch) || has_adapter(Linear::up, batch)) {
    gate_up_.assign(static_cast<std::size_t>(batch.rows * layer.gate_up->out), 0.0F);
    add_adapters(Linear::gate, batch, normed, gate_up_.data(), layer.gate_up->out);
    add_adapters(Linear::up, batch, normed, gate_up_.data() + intermediate, layer.gate_up->out);
    addend = gate_up_.data();
  }
  backend_.gated_linear(*layer.gate_up, batch.rows, normed, gate_activation(config_.activation), addend,
                        gated);
  show(observer, Tap::ffn_gated, batch, gated);
  const Update update = {*layer.down, Linear::down, Norm::ffn_post, Tap::ffn_update};
  add_update(layer, update, batch, gated, observer);
}

// hidden += W x, normed before where the model has sandwich norms.
void LayerRunner::add_update(const LayerWeights& layer, const Update& update, const Batch& batch, ConstRows x,
                             Observer* observer) {
  const std::int64_t hidden = config_.hidden_size;
  const bool direct = !config_.sandwich_norms && observer == nullptr;
  float* to = direct ? batch.hidden : update_.data();
  backend_.linear(update.weight, batch.rows, x, to, hidden, direct);
  add_adapters(update.linear, batch, x, to, hidden);
  if (direct) return;
  if (config_.sandwich_norms) normalise(layer, update.post, batch, to, float_rows(to, hidden));
  show(observer, update.tap, batch, hidden, to);
  backend_.add(batch.rows * hidden, to, batch.hidden);
}

bool LayerRunner::has_adapter(Linear linear, const Batch& batch) const {
  return std::ranges::any_of(batch.visits, [&](const VisitRows& rows) {
    const AdapterWeights* own = adapter(rows);
    return own != nullptr && own->pairs[static_cast<std::size_t>(linear)].a != nullptr;
  });
}

// y += B (A x) for each visit's rows that have such a pair; rows of y are `stride` apart.
void LayerRunner::add_adapters(Linear linear, const Batch& batch, ConstRows x, float* y,
                               std::int64_t stride) {
  for (const VisitRows& rows : batch.visits) {
    const AdapterWeights* own = adapter(rows);
    if (own == nullptr) continue;
    const auto& [a, b] = own->pairs[static_cast<std::size_t>(linear)];
    if (a == nullptr) continue;
    const Rows low_rank = low_rank_.rows(rows.count, a->out);
    backend_.linear(*a, rows.count, x.from(rows.row), low_rank);
    backend_.linear(*b, rows.count, low_rank, y + rows.row * stride, stride, true);
  }
}

const std::vector<float>& LayerRunner::gain(const LayerWeights& layer, Norm norm,
                                            const VisitRows& rows) const {
  const auto index = static_cast<std::size_t>(norm);
  const AdapterWeights* own = adapter(rows);
  return own != nullptr && !own->norms[index].empty() ? own->norms[index] : layer.norms[index];
}

// Each visit's rows [rows, hidden] with its own gains.
void LayerRunner::normalise(const LayerWeights& layer, Norm norm, const Batch& batch, const float* x,
                            Rows y) const {
  for (const VisitRows& rows : batch.visits) {
    backend_.rms_norm(rows.count, config_.hidden_size, x + rows.row * config_.hidden_size,
                      gain(layer, norm, rows).data(), static_cast<float>(config_.norm_eps), y.from(rows.row));
  }
}

// The same for the heads of rows that are `stride` apart, in place.
void LayerRunner::normalise_heads(const LayerWeights& layer, Norm norm, const Batch& batch,
                                  std::int64_t heads, float* x, std::int64_t stride) const {
  for (const VisitRows& rows : batch.visits)
    backend_.norm_heads(rows.count, heads, config_.head_dim, gain(layer, norm, rows).data(),
                        static_cast<float>(config_.norm_eps), x + rows.row * stride, stride);
}

void LayerRunner::reserve(std::int64_t rows) {
  if (rows <= reserved_rows_) return;
  reserved_rows_ = rows;
  const auto size = [rows](std::int64_t width) { return static_cast<std::size_t>(rows * width); };
  const std::int64_t kv_width = config_.kv_heads * config_.head_dim;
  update_.resize(size(config_.hidden_size));
  qkv_.resize(size(config_.heads * config_.head_dim + 2 * kv_width));
}

const AdapterWeights* LayerRunner::adapter(const VisitRows& rows) const {
  const std::int64_t index = plan_.visits[static_cast<std::size_t>(rows.visit)].adapter;
  return index < 0 ? nullptr : &weights_.adapters[static_cast<std::size_t>(index)];
}

}  // namespace fathom
