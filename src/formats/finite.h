// Whether stored values are numbers at all.
#pragma once

#include <cstddef>
#include <optional>
#include <span>

#include "formats/tensor.h"

namespace fathom {

/// Index of the first value among these that is NaN or infinite, if there is one. `type` is one that is
/// written (f32, f16 or bf16).
std::optional<std::size_t> first_not_finite(DType type, std::span<const std::byte> values);

}  // namespace fathom
