#include "train/run/event_file.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <bit>
#include <cstring>
#include <limits>
#include <vector>

#include "base/file.h"
#include "scratch.h"

namespace fathom {
namespace {

/// CRC-32C bit by bit, as RFC 3720 defines it.
std::uint32_t slow_crc(std::string_view bytes) {
  std::uint32_t crc = 0xffffffffU;
  for (const char c : bytes) {
    crc ^= static_cast<unsigned char>(c);
    for (int bit = 0; bit < 8; ++bit) crc = crc & 1U ? crc >> 1U ^ 0x82f63b78U : crc >> 1U;
  }
  return crc ^ 0xffffffffU;
}

/// A reader of the format by itself: TFRecord around protocol buffers.
class Reader {
 public:
  explicit Reader(std::string_view bytes) : rest_(bytes) {}
  bool done() const { return rest_.empty(); }

  template <typename Value>
  Value fixed() {
    Value value;
    std::memcpy(&value, take(sizeof value).data(), sizeof value);
    return value;
  }
  std::string_view take(std::size_t count) {
    if (count > rest_.size()) throw std::runtime_error("the file ends too early");
    const std::string_view result = rest_.substr(0, count);
    rest_.remove_prefix(count);
    return result;
  }
  std::uint64_t varint() {
    std::uint64_t value = 0;
    for (int shift = 0;; shift += 7) {
      const auto byte = fixed<unsigned char>();
      value |= static_cast<std::uint64_t>(byte & 0x7fU) << shift;
      if (byte < 0x80) return value;
    }
  }
  std::string_view record() {
    const std::string_view head = rest_;
    const auto length = fixed<std::uint64_t>();
    check(head.substr(0, 8));
    const std::string_view event = take(length);
    check(event);
    return event;
  }

 private:
  void check(std::string_view of) {
    const std::uint32_t crc = slow_crc(of);
    EXPECT_EQ(fixed<std::uint32_t>(), (crc >> 15U | crc << 17U) + 0xa282ead8U);
  }
  std::string_view rest_;
};

struct Event {
  double time = 0;
  std::uint64_t step = 0;
  std::string version;
  std::map<std::string, float> values;
};

Event event(std::string_view bytes) {
  Event result;
  for (Reader fields(bytes); !fields.done();) {
    switch (fields.varint()) {
      case 1 << 3 | 1:
        result.time = fields.fixed<double>();
        break;
      case 2 << 3:
        result.step = fields.varint();
        break;
      case 3 << 3 | 2:
        result.version = fields.take(fields.varint());
        break;
      case 5 << 3 | 2:
        for (Reader summary(fields.take(fields.varint())); !summary.done();) {
          EXPECT_EQ(summary.varint(), 1U << 3U | 2U);
          Reader value(summary.take(summary.varint()));
          EXPECT_EQ(value.varint(), 1U << 3U | 2U);
          const std::string tag(value.take(value.varint()));
          EXPECT_EQ(value.varint(), 2U << 3U | 5U);
          result.values[tag] = value.fixed<float>();
        }
        break;
      default:
        ADD_FAILURE() << "a field that no event has";
        return result;
    }
  }
  return result;
}

TEST(EventFile, IsWhatTensorBoardReads) {
  const test::Scratch scratch;
  {
    EventFile file(scratch.path());
    file.append(7, {{"train/loss", 2.5}, {"train/learning_rate", 1e-3}});
    file.append(300, {{"train/loss", std::numeric_limits<double>::quiet_NaN()}, {"held_out/loss", 1.25}});
  }
  const auto path = std::filesystem::directory_iterator(scratch.path())->path();
  EXPECT_THAT(path.filename().string(), testing::StartsWith("events.out.tfevents."));
  const std::string bytes = read_file(path);
  std::vector<Event> events;
  for (Reader records(bytes); !records.done();) events.push_back(event(records.record()));
  ASSERT_EQ(events.size(), 3U);
  EXPECT_EQ(events[0].version, "brain.Event:2");
  EXPECT_GT(events[0].time, 1.6e9);
  EXPECT_EQ(events[1].step, 7U);
  EXPECT_THAT(events[1].values, testing::ElementsAre(testing::Pair("train/learning_rate", 1e-3F),
                                                     testing::Pair("train/loss", 2.5F)));
  EXPECT_EQ(events[2].step, 300U);
  EXPECT_THAT(events[2].values, testing::ElementsAre(testing::Pair("held_out/loss", 1.25F)));
}

TEST(Crc32c, OfTheStandardsExamples) {  // RFC 3720, B.4
  EXPECT_EQ(crc32c("123456789"), 0xe3069283U);
  EXPECT_EQ(crc32c(std::string(32, '\0')), 0x8a9136aaU);
  EXPECT_EQ(crc32c(std::string(32, '\xff')), 0x62a8ab43U);
}

}  // namespace
}  // namespace fathom
