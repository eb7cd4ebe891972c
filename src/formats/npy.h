// NumPy's .npy, version 1.0: what `fathom logits` writes and every Python reads.
#pragma once

#include <cstdint>
#include <filesystem>
#include <span>

#include "base/file.h"

namespace fathom {

/// A float32 matrix [rows, columns] written row by row (so that logits need not be in memory as a whole),
/// atomically.
class NpyWriter {
 public:
  NpyWriter(const std::filesystem::path& path, std::int64_t rows, std::int64_t columns);
  void append(std::span<const float> values);  ///< whole or part rows, in order; throws Error when too many
  void commit();                               ///< throws Error unless rows * columns values came

 private:
  std::filesystem::path path_;
  AtomicFile file_;
  std::int64_t missing_;
};

}  // namespace fathom
