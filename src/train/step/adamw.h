// AdamW (Loshchilov and Hutter 2019) over a model's trainable parameters.
#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include "base/threads.h"
#include "formats/safetensors.h"
#include "train/ops/linear.h"
#include "train/ops/ops.h"
#include "train/step/buckets.h"
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
  void step(double learning_rate, double norm) {
    begin_step(learning_rate, norm);
    finish();
  }
  /// The same, of which some is still on its way when this returns: on the CPU it goes on beside the next
  /// forward pass, since an update waits for memory, and products do not. What is read, and all gradients,
  /// must be waited for.
  void begin_step(double learning_rate, double norm);
  /// Returns when what the visits up to number `visit` read, and what lies outside of the layers, is updated.
  void finish(std::int64_t visit) const;
  void finish() const { background_.finish(); }
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
    std::int64_t first_visit = 0;
    std::size_t tasks = 0;  ///< of the step begun last, up to the end of this entry's
  };
  std::vector<AdamWPart> parts();
  void begin_tasks(const AdamWUpdate& update, std::vector<AdamWPart> parts);

  OptimiserOptions options_;
  const Buckets& buckets_;
  const Operations& ops_;
  std::vector<Entry> entries_;  ///< in the order of their first visits
  std::int64_t steps_ = 0;
  mutable Background background_;
};

}  // namespace fathom
