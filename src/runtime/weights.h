// A checkpoint's tensors as the backend wants them: packed once, when an engine is made, or once and for all
// (runtime/packed_cache.h).
#pragma once

#include <array>
#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "kernels/backend.h"
#include "model/checkpoint.h"
#include "runtime/packed_cache.h"
#include "text/tokenizer.h"

namespace fathom {

/// The norms of a layer by what they do. Checkpoints name them by where they stood in the first model that
/// had them: without sandwich norms, "post_attention_layernorm" is the one before the feed-forward.
enum class Norm { attention, q, k, attention_post, ffn, ffn_post };
inline constexpr std::size_t norm_count = 6;
inline constexpr std::size_t linear_count = std::size(all_linears);

/// Gains with the model's 1 + w applied; empty where the layer has no such norm.
using Norms = std::array<std::vector<float>, norm_count>;

struct LayerWeights {
  /// Queries, keys and values, one after another; apart where a file has them in different types and these
  /// are kept.
  std::vector<std::unique_ptr<PackedLinear>> qkv;
  std::unique_ptr<PackedLinear> o;
  std::unique_ptr<PackedLinear> gate_up;  ///< for gated_linear
  std::unique_ptr<PackedLinear> down;
  Norms norms;
};

/// A visit's own part: low-rank pairs, y += B (A x), and norms in place of the layer's.
struct AdapterWeights {
  struct Pair {
    std::unique_ptr<PackedLinear> a, b;  ///< [rank, in], [out, rank]; both null where nothing is added
  };
  std::array<Pair, linear_count> pairs;
  Norms norms;
};

/// What an exit has of its own; nothing where the model has neither.
struct ExitWeights {
  AdapterWeights::Pair translator;  ///< `a` is null where it is one matrix, `b`
  std::vector<float> gate;          ///< [hidden], or empty
  float gate_bias = 0;
};

struct Weights {
  std::vector<LayerWeights> layers;
  std::vector<AdapterWeights> adapters;
  Tensor embedding;  ///< stays where it is: a token needs one row of it
  std::vector<float> final_norm;
  std::unique_ptr<PackedLinear> head;
  std::vector<ExitWeights> exits;            ///< by visit of the checkpoint's plan
  std::vector<std::int64_t> shortlist;       ///< tokens that exits choose from; none: all
  std::unique_ptr<PackedLinear> short_head;  ///< the head's rows of those

  std::int64_t bytes() const;  ///< memory of what is packed
};

/// What products read, f32 or bf16: values that all of them round to bf16, or to 8 bits, are rounded to bf16
/// where they are computed.
Compute row_type(const Weights& weights);

/// Hidden states [tokens, hidden] before the first visit: the tokens' rows of the embedding matrix, scaled as
/// the model wants.
void embed(const ModelConfig& config, const Tensor& embedding, std::span<const Token> tokens, float* hidden);

/// Adapters of integer weights are held in bf16: they are small, and correct what the weights lost. So are
/// exits' translators.
Weights pack_weights(const Checkpoint& checkpoint, const Backend& backend, Compute compute,
                     const PackedCache& cache);

}  // namespace fathom
