// The operations of the trained model, with their gradients, on one of two ways: by torch's own, on any
// device (Operations), or by Fathom's kernels on the CPU, which take their place where they are faster
// (KernelOperations, train/ops/kernel_ops.h). Activations: the residual stream is float32, what matrix
// products read is in their type.
#pragma once

#include <ATen/ATen.h>

#include <memory>
#include <span>
#include <vector>

#include "model/config.h"
#include "train/kernels/attention.h"
#include "train/ops/head_loss.h"
#include "train/ops/linear.h"
#include "train/train.h"

namespace fathom {

/// What an update of AdamW does to one tensor's values; all are float32, of the same length.
struct AdamWPart {
  at::Tensor values, gradient, average, square;
  double weight_decay = 0;
  std::int64_t columns = 0;       ///< of a whole matrix that something follows
  PartChanged changed = nullptr;  ///< then: to be called for each part
};

struct AdamWUpdate {
  double learning_rate = 0, gradient_scale = 1;  ///< gradients are multiplied by it first (clipping)
  std::int64_t number = 1;                       ///< from 1
};

class Operations {
 public:
  /// Where the model's tensors lie.
  explicit Operations(at::Device device) : device_(device) {}
  virtual ~Operations() = default;
  Operations(const Operations&) = delete;
  Operations& operator=(const Operations&) = delete;

  at::Device device() const { return device_; }
  /// Whether matrices lie packed beside their values, too, for products in bfloat16.
  virtual bool packs() const { return false; }

  /// RMS norm of x[rows, width] with gain w, or 1 + w: same shape, of type `out`.
  virtual at::Tensor rms_norm(const at::Tensor& x, const Parameter& gain, bool plus_one, double eps,
                              at::ScalarType out) const;

  /// The norm of a residual stream, and the stream to go on with: so its two gradients meet in one pass.
  struct Normed {
    at::Tensor y, stream;
  };
  virtual Normed norm_stream(const at::Tensor& stream, const Parameter& gain, bool plus_one, double eps,
                             at::ScalarType out) const {
    return {rms_norm(stream, gain, plus_one, eps, out), stream};
  }

  /// Rows `ids` of the matrix times `scale`, float32 [ids, width].
  at::Tensor embed(const at::Tensor& ids, const Parameter& matrix, double scale) const;

  /// Rotary embedding of the first `heads` heads of x[rows, all heads * head_dim]; the others stay as they
  /// are. Tables [positions, head_dim / 2]; row r has position r % positions.
  virtual at::Tensor rotary(const at::Tensor& x, const at::Tensor& cosines, const at::Tensor& sines,
                            std::int64_t heads) const;

  /// Causal attention within each sequence of `positions` rows: qkv[rows, qkv_width] to [rows, heads *
  /// head_dim].
  virtual at::Tensor attend(const at::Tensor& qkv, const AttentionForm& form) const;

  /// gate_up [rows, 2 width], gates first, to activation(gate) * up [rows, width].
  virtual at::Tensor gate(const at::Tensor& gate_up, Activation activation) const;

  /// As the constructors of LinearGroup and Head. `spares_memory`: forms of the weights that are of use once
  /// more are made again then.
  virtual std::unique_ptr<LinearGroup> linear_group(std::vector<const Parameter*> weights,
                                                    std::vector<const Parameter*> biases,
                                                    bool spares_memory) const;
  virtual std::unique_ptr<Head> head(const Parameter* weight, bool spares_memory) const;

  /// Norm of all values together.
  virtual double norm(const std::vector<at::Tensor>& tensors) const;
  /// Decoupled weight decay, then Adam's update (Loshchilov and Hutter 2019, algorithm 2).
  virtual void adamw(const OptimiserOptions& options, const AdamWUpdate& update,
                     const std::vector<AdamWPart>& parts) const;

 private:
  at::Device device_;
};

/// Those of a device, which is not `automatic`.
const Operations& operations(Device device);

}  // namespace fathom
