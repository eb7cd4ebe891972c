#include "formats/npy.h"

#include <cstddef>
#include <string>

#include "base/error.h"

namespace fathom {

NpyWriter::NpyWriter(const std::filesystem::path& path, std::int64_t rows, std::int64_t columns)
    : path_(path), file_(path), missing_(0) {
  if (rows < 0 || columns < 0 || __builtin_mul_overflow(rows, columns, &missing_)) {
    fail("{}: a matrix [{}, {}] is impossible", path.string(), rows, columns);
  }
  // Magic, version 1.0 and the header's length in two bytes, then the header: padded so that the data begin
  // at a multiple of 64, and ended by a newline.
  constexpr std::size_t before_header = 10, alignment = 64;
  std::string header =
      fmt::format("{{'descr': '<f4', 'fortran_order': False, 'shape': ({}, {}), }}", rows, columns);
  const std::size_t unaligned = (before_header + header.size() + 1) % alignment;
  header.append(unaligned == 0 ? 0 : alignment - unaligned, ' ');
  header += '\n';
  std::string start("\x93NUMPY\x01\x00", 8);
  start += static_cast<char>(header.size() & 0xff);
  start += static_cast<char>(header.size() >> 8);
  file_.write(start + header);
}

void NpyWriter::append(std::span<const float> values) {
  if (std::ssize(values) > missing_) {
    fail("{}: {} values more than the matrix has", path_.string(), std::ssize(values) - missing_);
  }
  file_.write(std::as_bytes(values));
  missing_ -= std::ssize(values);
}

void NpyWriter::commit() {
  if (missing_ != 0) fail("{}: {} values of the matrix are missing", path_.string(), missing_);
  file_.commit();
}

}  // namespace fathom
