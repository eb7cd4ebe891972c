// AdamW (Loshchilov and Hutter 2019) over a model's trainable parameters.
#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include "formats/safetensors.h"
#include "train/buckets.h"
#include "train/linear.h"
#include "train/ops.h"
#include "train/train.h"

namespace fathom {

class AdamW {
 public:
  /// All must outlive it. No weight decay on norms, biases and other vectors. Of each parameter it keeps the
  /// moments of this rank's share and updates that; the others update theirs.
  AdamW(std::map<std::string, Parameter>& parameters, const OptimiserOptions& options, const Buckets& buckets,
        const Operations& ops);

  /// Norm of all gradients together, before clipping.
  double gradient_norm() const;

  /// One update with gradients scaled down to the norm `options.clip` if `norm` is above; then they are
  /// spent.
  void step(double learning_rate, double norm);
  /// Takes the gradients for spent without an update.
  void discard();

  /// Masters ("weight/NAME") and both moments ("exp_avg/NAME", "exp_avg_sq/NAME") for a checkpoint: float32,
  /// views where they lie in host memory, else copies. Where moments are shared out, they are put together on
  /// rank 0, and only that has them all.
  std::vector<std::pair<std::string, Tensor>> state() const;
  /// Puts a checkpoint's state in place, after `steps` updates. Throws Error naming the tensor that is
  /// missing or of another shape or type.
  void restore(const TensorMap& state, std::int64_t steps, const std::string& file);

 private:
  struct Entry {
    std::string name;
    Parameter* parameter = nullptr;
    at::Tensor average, square;  ///< flat, of this rank's share
    Buckets::Share share;
    double weight_decay = 0;
  };

  OptimiserOptions options_;
  const Buckets& buckets_;
  const Operations& ops_;
  std::vector<Entry> entries_;
  std::int64_t steps_ = 0;
};

}  // namespace fathom
