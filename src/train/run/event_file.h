// TensorBoard's event files: records of TensorFlow's TFRecord format, each an Event message of its protocol
// buffers, written by hand since four fields of it are all that scalars need.
#pragma once

#include <cstdint>
#include <filesystem>
#include <fstream>
#include <map>
#include <span>
#include <string>
#include <string_view>

namespace fathom {

class EventFile {
 public:
  /// A new file in `folder`, named after the time, as TensorBoard expects it.
  explicit EventFile(const std::filesystem::path& folder);

  /// Values by tag at a step, with the present time. What is no finite number is left out: TensorBoard cannot
  /// draw it. Throws Error when it cannot be written.
  void append(std::int64_t step, const std::map<std::string, double>& values);

 private:
  void write(std::string_view event);

  std::filesystem::path path_;
  std::ofstream out_;
};

/// CRC-32C (Castagnoli; RFC 3720, appendix B.4).
std::uint32_t crc32c(std::string_view bytes);

}  // namespace fathom
