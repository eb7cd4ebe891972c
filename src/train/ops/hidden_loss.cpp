#include "train/ops/hidden_loss.h"

namespace fathom {

double hidden_loss(const at::Tensor& student, const at::Tensor& teacher, double scale, at::Tensor& gradient) {
  const at::Tensor difference = student - teacher;
  const at::Tensor size = teacher.square().sum(1, /*keepdim=*/true).clamp_min_(1e-20);
  gradient = difference * (2 * scale / size);
  return (difference.square().sum(1, /*keepdim=*/true) / size).sum(at::kDouble).item<double>();
}

}  // namespace fathom
