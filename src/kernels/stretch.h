// A stretch of a panel whose weights are in groups (packed_matrix.h), as products read it.
#pragma once

#include <cstddef>
#include <cstdint>

#include "kernels/packed_matrix.h"

namespace fathom {

struct Stretch {
  std::int64_t first_input = 0, inputs = 0;
  std::int64_t first_group = 0, groups = 0;
  const std::byte* weights = nullptr;        ///< as they lie; widened those of 6 bits as bytes, q + zero()
  const std::int8_t* multipliers = nullptr;  ///< int4: [groups, 16]
  const float* scales = nullptr;             ///< in groups: [groups, 16]
  const float* minima = nullptr;             ///< the same, where the matrix has minima
};

/// Where what is not read in place is put: 6 KB.
struct StretchRoom {
  static constexpr std::int64_t most_groups = stretch_inputs / 16;
  alignas(64) float scales[most_groups * panel_outputs], minima[most_groups * panel_outputs];
  alignas(64) std::byte weights[stretch_inputs * panel_outputs];
};

/// Stretch `s` of a panel; valid as long as both it and the room are. `widen`: 6-bit weights become bytes.
Stretch read_stretch(const PackedMatrix& weight, const std::byte* panel, std::int64_t s, bool widen,
                     StretchRoom& room);

}  // namespace fathom
