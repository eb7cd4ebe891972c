// The optimiser's passes over a tensor's values. They are bound by memory: a value's weight, gradient and two
// moments are 16 bytes read and 12 written, in one pass and not in one for each operation.
#pragma once

#include <cstdint>
#include <functional>
#include <span>

#include "kernels/repack.h"

namespace fathom {

struct AdamWStep {
  float learning_rate = 0, beta1 = 0.9F, beta2 = 0.95F, epsilon = 1e-8F, weight_decay = 0;
  float correction1 = 1, correction2 = 1;  ///< 1 - beta^steps
  float gradient_scale = 1;                ///< gradients are multiplied by it first (clipping)
};

/// Decoupled weight decay, then Adam's update (Loshchilov and Hutter 2019, algorithm 2).
void adamw_update(const AdamWStep& step, std::span<float> weight, std::span<const float> gradient,
                  std::span<float> average, std::span<float> square);

/// The same of a matrix with rows of `columns`, part by part: `changed` is called for each, in whatever order
/// and on any thread, while its values are in the cache.
void adamw_update(const AdamWStep& step, std::span<float> weight, std::span<const float> gradient,
                  std::span<float> average, std::span<float> square, std::int64_t columns,
                  const std::function<void(const MatrixPart&)>& changed);

/// Sum of squares in double precision, in an order that does not depend on the number of threads.
double sum_of_squares(std::span<const float> values);

}  // namespace fathom
