// One layer over a batch of rows, whatever their sequences and visits.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "kernels/row_buffer.h"
#include "model/depth_plan.h"
#include "runtime/engine.h"
#include "runtime/rotary_table.h"
#include "runtime/weights.h"

namespace fathom {

/// Neighbouring rows of a batch that are at the same visit.
struct VisitRows {
  std::int64_t visit = 0;
  std::int64_t row = 0, count = 0;
  std::span<const AttentionSpan> spans;  ///< their sequences; each span's `row` counts from the batch's begin
};

struct Batch {
  std::int64_t rows = 0;
  std::int64_t full = 0;    ///< the rest of them have keys and values stored, and stay as they are
  float* hidden = nullptr;  ///< [rows, hidden_size], updated in place
  std::span<const std::int64_t> positions;
  std::span<const VisitRows> visits;  ///< all of the same layer

  /// Of the rows that are not for keys and values alone.
  Batch whole() const {
    Batch own = *this;
    own.rows = full;
    while (!own.visits.empty() && own.visits.back().row >= full)
      own.visits = own.visits.first(own.visits.size() - 1);
    return own;
  }
};

/// How a layer keeps what it computes.
struct LayerTypes {
  KvLayout cache;
  Compute rows = Compute::f32;  ///< what products read, f32 or bf16
};

/// Runs layers; owns the intermediate values, which grow to the largest batch seen.
class LayerRunner {
 public:
  /// All that is passed must outlive it.
  LayerRunner(const ModelConfig& config, const DepthPlan& plan, const Weights& weights,
              const Backend& backend, const LayerTypes& types);

  void run(const Batch& batch, Observer* observer);

 private:
  void attention(const LayerWeights& layer, const Batch& batch, Observer* observer);
  void feed_forward(const LayerWeights& layer, const Batch& batch, Observer* observer);
  /// What a half of the layer adds to the residual stream.
  struct Update {
    const PackedLinear& weight;
    Linear linear;
    Norm post;
    Tap tap;
  };
  void add_update(const LayerWeights& layer, const Update& update, const Batch& batch, ConstRows x,
                  Observer* observer);
  bool has_adapter(Linear linear, const Batch& batch) const;
  void add_adapters(Linear linear, const Batch& batch, ConstRows x, float* y, std::int64_t stride);
  const std::vector<float>& gain(const LayerWeights& layer, Norm norm, const VisitRows& rows) const;
  void normalise(const LayerWeights& layer, Norm norm, const Batch& batch, const float* x, Rows y) const;
  void normalise_heads(const LayerWeights& layer, Norm norm, const Batch& batch, std::int64_t heads, float* x,
                       std::int64_t stride) const;
  void reserve(std::int64_t rows);
  const AdapterWeights* adapter(const VisitRows& rows) const;

  const ModelConfig& config_;
  const DepthPlan& plan_;
  const Weights& weights_;
  const Backend& backend_;
  KvLayout layout_;
  std::vector<RotaryTable> rotary_;  // by attention type
  std::int64_t reserved_rows_ = 0;
  RowBuffer normed_, mixed_, gated_, low_rank_;
  LargeFloats qkv_, update_, gate_up_;
};

}  // namespace fathom
