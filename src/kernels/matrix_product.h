// Products of many rows with a weight in panels, by oneDNN.
#pragma once

#include <cstdint>
#include <memory>

#include "kernels/panels.h"

namespace fathom {

class MatrixProduct {
 public:
  MatrixProduct();
  ~MatrixProduct();

  /// True if oneDNN has kernels for panels of this type on this machine (AVX-512; for bf16, AMX).
  bool supports(Compute type) const;
  /// y[rows, out] (+)= x[rows, in] Wᵀ (+ bias[out]). `x` is of the weight's type: float, or bf16 as uint16_t.
  void run(const PanelMatrix& weight, const float* bias, std::int64_t rows, const void* x, float* y,
           bool accumulate);

 private:
  struct State;
  std::unique_ptr<State> state_;
};

}  // namespace fathom
