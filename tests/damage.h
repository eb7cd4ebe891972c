// Damaged copies of a file, the same on every machine: for the tests of everything that reads what others
// wrote.
#pragma once

#include <gtest/gtest.h>
#include <sys/resource.h>

#include <cstdint>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <functional>
#include <limits>
#include <string>
#include <string_view>

#include "base/error.h"
#include "base/random.h"

namespace fathom::test {

/// The copy of `original` that belongs to `seed`: one to three changes, each of bits, numbers (binary and
/// decimal ones become extreme), length or order. Half of them hit the first eighth, where the headers are.
inline std::string damaged(std::string_view original, std::uint64_t seed) {
  Random random(seed);
  std::string text(original);
  const auto place = [&] {
    const std::size_t range = random.below(2) == 0 ? text.size() / 8 + 1 : text.size() + 1;
    return static_cast<std::size_t>(random.below(range));
  };
  for (std::uint64_t changes = 1 + random.below(3); changes > 0; --changes) {
    const std::size_t at = std::min(place(), text.size());
    const std::size_t left = text.size() - at;
    const std::size_t length = std::min<std::size_t>(left, random.below(40));
    switch (random.below(8)) {
      case 0:  // flip a bit
        if (left > 0) text[at] = static_cast<char>(text[at] ^ (1 << random.below(8)));
        break;
      case 1:  // another byte
        if (left > 0) text[at] = static_cast<char>(random.below(256));
        break;
      case 2: {  // an extreme integer of 1, 2, 4 or 8 bytes
        constexpr std::uint64_t extremes[] = {
            0,          1,          0x7f,       0x80,       0xffff,           0x7fffffff,
            0x80000000, 0xffffffff, 1ULL << 40, 1ULL << 62, (1ULL << 63) - 1, 1ULL << 63,
            ~0ULL - 7,  ~0ULL};
        const std::uint64_t value = extremes[random.below(std::size(extremes))];
        const std::size_t size = std::min<std::size_t>(std::size_t{1} << random.below(4), left);
        std::memcpy(text.data() + at, &value, size);
        break;
      }
      case 3:
        text.resize(at);
        break;
      case 4: {  // insert
        std::string inserted(1 + random.below(16), '\0');
        for (char& c : inserted) c = static_cast<char>(random.below(256));
        text.insert(at, inserted);
        break;
      }
      case 5:
        text.insert(at, text.substr(at, length));
        break;
      case 6:
        text.erase(at, length);
        break;
      case 7: {  // another decimal number, where the text has one
        const std::size_t digit = text.find_first_of("0123456789", at);
        constexpr std::string_view numbers[] = {"0",     "-1", "7", "99999999", "18446744073709551615",
                                                "1e999", "[",  "{"};
        if (digit != std::string::npos) text.replace(digit, 1, numbers[random.below(std::size(numbers))]);
        break;
      }
    }
  }
  return text;
}

/// The most memory that the process ever held, in bytes.
inline std::int64_t peak_memory() {
  rusage usage{};
  getrusage(RUSAGE_SELF, &usage);
  return std::int64_t{usage.ru_maxrss} * 1024;
}

/// Writes each text of `make(0 .. count)` over `path` and loads it: it must load, or throw an Error that
/// names the file or something in `named`, and never take more than `memory` bytes. Returns how many loaded.
inline int expect_loads_or_errors(const std::filesystem::path& path, int count,
                                  const std::function<std::string(int)>& make,
                                  const std::function<void()>& load, std::int64_t memory = 64 << 20) {
  const std::int64_t before = peak_memory();
  int loaded = 0;
  for (int i = 0; i < count; ++i) {
    std::filesystem::remove(
        path);  // several times as fast as overwriting: file systems flush what is replaced
    std::ofstream(path, std::ios::binary) << make(i);
    try {
      load();
      ++loaded;
    } catch (const Error& e) {
      EXPECT_NE(std::string_view(e.what()).find(path.filename().string()), std::string_view::npos)
          << "copy " << i << ": the message does not name the file: " << e.what();
    } catch (const std::exception& e) {
      ADD_FAILURE() << "copy " << i << ": not an Error: " << e.what();
    }
  }
#ifndef __SANITIZE_ADDRESS__  // which keeps freed memory for a while
  EXPECT_LT(peak_memory() - before, memory);
#else
  static_cast<void>(before + memory);
#endif
  return loaded;
}

/// `count` damaged copies of `original`, as `path`.
inline int expect_survives_damage(const std::filesystem::path& path, std::string_view original, int count,
                                  const std::function<void()>& load) {
  return expect_loads_or_errors(
      path, count, [&](int seed) { return damaged(original, static_cast<std::uint64_t>(seed)); }, load);
}

/// Every proper prefix of `original`, as `path`.
inline int expect_survives_truncation(const std::filesystem::path& path, std::string_view original,
                                      const std::function<void()>& load) {
  return expect_loads_or_errors(
      path, static_cast<int>(original.size()),
      [&](int length) { return std::string(original.substr(0, static_cast<std::size_t>(length))); }, load);
}

}  // namespace fathom::test
