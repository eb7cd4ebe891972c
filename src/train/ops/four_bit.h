// Frozen weights in 4 bits, which are decoded each time they are multiplied: QLoRA (Dettmers et al. 2023,
// arXiv 2305.14314).
#pragma once

#include <ATen/ATen.h>

#include <array>
#include <cstddef>
#include <cstdint>
#include <span>

#include "train/train.h"

namespace fathom {

/// Quantiles of a normal distribution, with an exact zero (the paper's appendix E): what a 4-bit code means
/// beside a largest magnitude of 1.
inline constexpr std::array<float, 16> nf4_codes = {-1.0F,
                                                    -0.6961928009986877F,
                                                    -0.5250730514526367F,
                                                    -0.39491748809814453F,
                                                    -0.28444138169288635F,
                                                    -0.18477343022823334F,
                                                    -0.09105003625154495F,
                                                    0.0F,
                                                    0.07958029955625534F,
                                                    0.16093020141124725F,
                                                    0.24611230194568634F,
                                                    0.33791524171829224F,
                                                    0.44070982933044434F,
                                                    0.5626170039176941F,
                                                    0.7229568362236023F,
                                                    1.0F};

/// A weight [rows, columns] in blocks along its rows; the last of a row may be shorter.
/// - nf4: blocks of 64 share a scale, their largest magnitude. Scales are 8 bits each ("double
///   quantisation"): whole numbers around the scales' mean, 256 of which share a float. 4.13 bits a weight.
/// - int4: blocks of 32 share a scale in f16, as the runtime's int4_groups (kernels/quantise.h). 4.5 bits.
class FourBitMatrix {
 public:
  /// From values in the order of the rows. `type` is not full.
  FourBitMatrix(FrozenType type, std::int64_t rows, std::int64_t columns, std::span<const float> values);

  std::int64_t rows() const { return rows_; }
  std::int64_t columns() const { return columns_; }
  std::int64_t bytes() const;

  /// To where decoded() is to compute.
  void move_to(at::Device device);

  /// All values, [rows, columns], rounded to nearest: on all threads, of codes that lie in host memory.
  void decode(std::uint16_t* to) const;
  /// The same values by torch's operations, of this type, where the codes lie.
  at::Tensor decoded(at::ScalarType type) const;

 private:
  void encode_row(std::int64_t row, const float* values, float* scales);
  void quantise_scales(std::span<const float> scales);
  float scale(std::int64_t block) const;
  std::int64_t row_blocks() const { return (columns_ + block_ - 1) / block_; }

  FrozenType type_;
  std::int64_t rows_, columns_, block_;
  /// [blocks, block / 2]: byte j of a block holds its values j (lower half) and j + block / 2.
  at::Tensor codes_;
  at::Tensor scales_;       ///< [blocks]: f16 for int4, 8 bits for nf4
  at::Tensor scale_steps_;  ///< nf4: of 256 scales each, float32
  float mean_scale_ = 0;
};

}  // namespace fathom
