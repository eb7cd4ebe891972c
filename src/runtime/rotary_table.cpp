#include "runtime/rotary_table.h"

#include <cmath>

namespace fathom {

const float* RotaryTable::rows(std::int64_t count) {
  const std::size_t half = rope_.frequencies.size();
  if (half == 0) return nullptr;
  const std::size_t present = values_.size() / (2 * half);
  if (present < static_cast<std::size_t>(count)) {
    values_.resize(static_cast<std::size_t>(count) * 2 * half);
    for (std::size_t p = present; p < static_cast<std::size_t>(count); ++p) {
      float* row = values_.data() + p * 2 * half;
      for (std::size_t i = 0; i < half; ++i) {
        // The angle is rounded to float32, as transformers does: at position 100,000 that is 0.004 radians.
        const float angle = static_cast<float>(p) * rope_.frequencies[i];
        row[i] = static_cast<float>(std::cos(double{angle})) * rope_.attention_factor;
        row[half + i] = static_cast<float>(std::sin(double{angle})) * rope_.attention_factor;
      }
    }
  }
  return values_.data();
}

}  // namespace fathom
