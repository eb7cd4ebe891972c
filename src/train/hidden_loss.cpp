#include "train/hidden_loss.h"

namespace fathom {

double hidden_loss(const at::Tensor& student, std::span<const float> teacher, double scale,
                   at::Tensor& gradient) {
  const at::Tensor target = at::from_blob(const_cast<float*>(teacher.data()), student.sizes(), at::kFloat);
  const at::Tensor difference = student - target;
  const at::Tensor size = target.square().sum(1, /*keepdim=*/true).clamp_min_(1e-20);
  gradient = difference * (2 * scale / size);
  return (difference.square().sum(1, /*keepdim=*/true) / size).sum(at::kDouble).item<double>();
}

}  // namespace fathom
