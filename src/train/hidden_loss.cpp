#include "train/hidden_loss.h"

namespace fathom {

double hidden_loss(const at::Tensor& student, std::span<const float> teacher, double scale,
                   at::Tensor& gradient) {
  gradient = student - at::from_blob(const_cast<float*>(teacher.data()), student.sizes(), at::kFloat);
  const auto width = static_cast<double>(student.size(1));
  const double sum = gradient.square().sum(at::kDouble).item<double>() / width;
  gradient *= 2 * scale / width;
  return sum;
}

}  // namespace fathom
