#include "train/run/event_file.h"

#include <unistd.h>

#include <array>
#include <bit>
#include <cerrno>
#include <chrono>
#include <cmath>
#include <cstring>

#include "base/error.h"

namespace fathom {
namespace {

double now() {
  return std::chrono::duration<double>(std::chrono::system_clock::now().time_since_epoch()).count();
}

template <typename Integer>
std::string little_endian(Integer value) {
  std::string bytes;
  for (std::size_t i = 0; i < sizeof value; ++i) bytes += static_cast<char>(value >> (8 * i) & 0xffU);
  return bytes;
}

/// As TFRecord stores a checksum, so that one of data which hold checksums is no weaker.
std::string masked_crc(std::string_view bytes) {
  const std::uint32_t crc = crc32c(bytes);
  return little_endian<std::uint32_t>((crc >> 15U | crc << 17U) + 0xa282ead8U);
}

// Fields of protocol buffers: a key (number and wire type), then the value.
std::string varint(std::uint64_t value) {
  std::string bytes;
  for (; value >= 0x80; value >>= 7U) bytes += static_cast<char>(value | 0x80U);
  return bytes + static_cast<char>(value);
}

std::string text_field(std::uint64_t number, std::string_view text) {
  return varint(number << 3U | 2U) + varint(text.size()) + std::string(text);
}

std::string double_field(std::uint64_t number, double value) {
  return varint(number << 3U | 1U) + little_endian(std::bit_cast<std::uint64_t>(value));
}

std::string float_field(std::uint64_t number, float value) {
  return varint(number << 3U | 5U) + little_endian(std::bit_cast<std::uint32_t>(value));
}

constexpr std::array<std::uint32_t, 256> crc_table = [] {
  std::array<std::uint32_t, 256> table{};
  for (std::uint32_t i = 0; i < 256; ++i) {
    std::uint32_t crc = i;
    for (int bit = 0; bit < 8; ++bit) crc = (crc >> 1U) ^ ((crc & 1U) != 0 ? 0x82f63b78U : 0U);
    table[i] = crc;
  }
  return table;
}();

}  // namespace

std::uint32_t crc32c(std::string_view bytes) {
  std::uint32_t crc = ~std::uint32_t{0};
  for (const char c : bytes) crc = crc_table[(crc ^ static_cast<unsigned char>(c)) & 0xffU] ^ (crc >> 8U);
  return ~crc;
}

EventFile::EventFile(const std::filesystem::path& folder)
    : path_(folder / fmt::format("events.out.tfevents.{:.0f}.{}", now(), ::getpid())),
      out_(path_, std::ios::binary) {
  // Event: 1 wall_time, 3 file_version
  write(double_field(1, now()) + text_field(3, "brain.Event:2"));
}

void EventFile::append(std::int64_t step, const std::map<std::string, double>& values) {
  std::string summary;  // 1 value, repeated: 1 tag, 2 simple_value
  for (const auto& [tag, value] : values) {
    if (!std::isfinite(value)) continue;
    summary += text_field(1, text_field(1, tag) + float_field(2, static_cast<float>(value)));
  }
  // Event: 1 wall_time, 2 step, 5 summary
  write(double_field(1, now()) + varint(2U << 3U) + varint(static_cast<std::uint64_t>(step)) +
        text_field(5, summary));
}

void EventFile::write(std::string_view event) {
  const std::string length = little_endian<std::uint64_t>(event.size());
  out_ << length << masked_crc(length) << event << masked_crc(event);
  out_.flush();
  if (!out_) fail("{}: cannot write: {}", path_.string(), std::strerror(errno));
}

}  // namespace fathom
