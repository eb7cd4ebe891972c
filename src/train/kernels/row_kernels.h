// What a training step does between matrix products, one pass over the rows each: normalisation, rotation,
// the losses over the vocabulary (vocabulary_loss.h). PyTorch's own operations make three to ten passes for
// each of these and spend more time on them than on the products. Highway, dispatched at run time; rows are
// split among the threads in fixed shares, so that results are the same to the last bit from run to run with
// the same number of threads.
#pragma once

#include <cstdint>

namespace fathom {

/// Rows of float32 or bfloat16 values; everything is computed in float32 and rounded when stored.
struct Values {
  void* data = nullptr;
  bool bf16 = false;
};

/// y = x * inverse_rms * gain with inverse_rms[row] = 1 / sqrt(mean(x²) + eps), which is kept for the way
/// back.
void rms_norm(std::int64_t rows, std::int64_t width, Values x, const float* gain, float eps, Values y,
              float* inverse_rms);

/// From dy: dx = r (g dy - x r² mean(g dy x)) + more[rows, width], unless that is nullptr, and
/// gain_gradient[width] += sum over rows of dy x r, unless that is.
void rms_norm_backward(std::int64_t rows, std::int64_t width, Values dy, Values x, const float* gain,
                       const float* inverse_rms, const float* more, Values dx, float* gain_gradient);

/// y = x, `count` values, rounded to bfloat16.
void round_values(std::int64_t count, const float* x, std::uint16_t* y);

/// y = x with the pairs (i, i + head_dim/2) of the first `heads` heads of each row turned by the angle whose
/// cosine and sine stand at [position, i]; row r has position r % positions. x and y are of one type.
/// `direction` is 1, or -1 for the way back (the transpose).
void rotate(std::int64_t rows, std::int64_t width, std::int64_t heads, std::int64_t positions,
            std::int64_t head_dim, const float* cosines, const float* sines, float direction, Values x,
            Values y);

}  // namespace fathom
