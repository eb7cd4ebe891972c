// The operations of the trained model by Fathom's kernels (train/kernels/row_kernels.h, attention.h, gate.h,
// optimiser_kernels.h), and by torch where those do not compute them.
#pragma once

#include "train/kernels/row_kernels.h"
#include "train/ops/ops.h"

namespace fathom {

/// The tensor's rows for row_kernels.h; it must be contiguous, float32 or bfloat16.
Values rows_of(const at::Tensor& tensor);

class KernelOperations : public Operations {
 public:
  KernelOperations() : Operations(at::kCPU) {}

  bool packs() const override { return true; }
  at::Tensor rms_norm(const at::Tensor& x, const Parameter& gain, bool plus_one, double eps,
                      at::ScalarType out) const override;
  Normed norm_stream(const at::Tensor& stream, const Parameter& gain, bool plus_one, double eps,
                     at::ScalarType out) const override;
  at::Tensor rotary(const at::Tensor& x, const at::Tensor& cosines, const at::Tensor& sines,
                    std::int64_t heads) const override;
  /// By attention.h in bfloat16 without soft cap.
  at::Tensor attend(const at::Tensor& qkv, const AttentionForm& form) const override;
  at::Tensor gate(const at::Tensor& gate_up, Activation activation) const override;
  std::unique_ptr<LinearGroup> linear_group(std::vector<const Parameter*> weights,
                                            std::vector<const Parameter*> biases,
                                            bool spares_memory) const override;
  std::unique_ptr<Head> head(const Parameter* weight, bool spares_memory) const override;
  /// Double sums in a fixed order.
  double norm(const std::vector<at::Tensor>& tensors) const override;
  void adamw(const OptimiserOptions& options, const AdamWUpdate& update,
             const std::vector<AdamWPart>& parts) const override;
};

}  // namespace fathom
