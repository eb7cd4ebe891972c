// The one interface between the runtime and a device: a table of operations on buffers of rows. A device (or
// a better CPU implementation) is another Backend, not another engine.
//
// Activations are float32 rows, contiguous, row-major: [rows, width]. Weights are packed once, when a model
// is loaded. Shapes are the caller's promise (assertions); nothing from outside reaches this interface
// unchecked.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <string>

#include "formats/tensor.h"

namespace fathom {

/// Type in which matrix products are computed (sums are float32 in both).
enum class Compute { f32, bf16 };

enum class GateActivation { silu, gelu, gelu_tanh, relu };

/// A linear layer's weight [out, in] in the layout that the backend chose, with its bias if it has one.
class PackedLinear {
 public:
  virtual ~PackedLinear() = default;
  std::int64_t out = 0, in = 0;
  std::int64_t bytes = 0;  ///< memory held
};

/// Rows of one sequence at one visit in an attention call: queries at positions [first, first + count) see
/// the cache's entries [0, first + count) under causality (and the window).
struct AttentionSpan {
  std::int64_t row = 0;           ///< index of the first query row in the batch
  std::int64_t count = 0;         ///< query rows
  std::int64_t first = 0;         ///< position of the first query row
  const float* keys = nullptr;    ///< [positions, kv_heads, head_dim]
  const float* values = nullptr;  ///< [positions, kv_heads, head_dim]
};

struct AttentionShape {
  std::int64_t heads = 0, kv_heads = 0, head_dim = 0;
  std::int64_t window = 0;  ///< 0: none
  float scale = 1, softcap = 0;
};

class Backend {
 public:
  virtual ~Backend() = default;
  /// One line for people: libraries, instruction set, what computes bf16.
  virtual std::string describe() const = 0;
  /// True if bf16 products are faster than float32 ones on this machine.
  virtual bool fast_bf16() const = 0;

  /// `bias` may be nullptr. Decodes any Tensor type.
  virtual std::unique_ptr<PackedLinear> pack(const Tensor& weight, const Tensor* bias,
                                             Compute compute) const = 0;
  /// y[rows, out] = x[rows, in] Wᵀ + bias; with `accumulate`, y += that.
  virtual void linear(const PackedLinear& weight, std::int64_t rows, const float* x, float* y,
                      bool accumulate) const = 0;

  /// y = x / rms(x) * gain over each row of `width`; `gain` already holds 1 + w where the model wants that.
  /// In place allowed.
  virtual void rms_norm(std::int64_t rows, std::int64_t width, const float* x, const float* gain, float eps,
                        float* y) const = 0;
  /// Rotates each head of each row by its position: pairs (i, i + head_dim/2); frequencies has head_dim/2
  /// entries. In place.
  virtual void rotary(std::int64_t rows, std::int64_t heads, std::int64_t head_dim,
                      const std::int64_t* positions, const float* frequencies, float attention_factor,
                      float* x) const = 0;
  /// gate = activation(gate) * up.
  virtual void gated_activation(std::int64_t rows, std::int64_t width, GateActivation activation, float* gate,
                                const float* up) const = 0;
  /// y += x.
  virtual void add(std::int64_t count, const float* x, float* y) const = 0;
  /// x = c tanh(x / c).
  virtual void softcap(std::int64_t count, float c, float* x) const = 0;
  /// out[rows, heads * head_dim] from queries of the same shape and each span's cache.
  virtual void attention(const AttentionShape& shape, std::span<const AttentionSpan> spans,
                         const float* queries, float* out) const = 0;
};

/// The CPU: oneDNN for matrix products, Highway (dispatched at run time) for the rest.
std::unique_ptr<Backend> make_cpu_backend();

/// Plain loops, one thread, double accumulators: what every other backend is tested against, and what one
/// reads first.
std::unique_ptr<Backend> make_reference_backend();

}  // namespace fathom
