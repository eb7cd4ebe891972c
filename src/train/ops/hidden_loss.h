// The student's hidden states against the teacher's. A block of layers that was dropped leaves a seam, where
// the layer after it reads what it was not trained on: (x_teacher(l* + n) - x_student(l*))², which Gromov et
// al. 2024 (arXiv 2403.17887, footnote 9) propose for healing, pulls the state at the seam to what the block
// would have made of it. For a model of the teacher's depth, such as a recursive one, it can be done after
// every visit.
#pragma once

#include <ATen/ATen.h>

namespace fathom {

/// Sum over rows of |student - teacher|² / |teacher|², [rows, width] both; its gradient times `scale` into
/// `gradient` (like the student). Relative, because the first token's hidden state may be 130 times as long
/// as the others' (SmolLM2): the plain square, in which it is all that counts, grew 23-fold in eight steps at
/// the seam of SmolLM2 without layers 12 to 15, where this one fell by a tenth.
double hidden_loss(const at::Tensor& student, const at::Tensor& teacher, double scale, at::Tensor& gradient);

}  // namespace fathom
