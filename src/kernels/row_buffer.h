// Memory of rows that products read.
#pragma once

#include <cstdint>

#include "kernels/aligned.h"
#include "kernels/backend.h"

namespace fathom {

class RowBuffer {
 public:
  explicit RowBuffer(Compute type) : type_(type) {}

  /// [count, width], with the memory behind it that Rows promises. What it held is lost when it grows.
  Rows rows(std::int64_t count, std::int64_t width) {
    constexpr std::int64_t readable = 31;
    const Rows rows = {type_, width, nullptr};
    memory_.reserve(static_cast<std::size_t>((count + readable) * rows.row_bytes()));
    return {type_, width, memory_.as<std::byte>()};
  }

 private:
  Compute type_;
  AlignedBuffer memory_;
};

}  // namespace fathom
