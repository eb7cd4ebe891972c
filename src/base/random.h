// Random numbers that are the same on every machine and library: the C++ distributions are not.
#pragma once

#include <cmath>
#include <cstdint>
#include <numbers>

namespace fathom {

/// xoshiro256** (Blackman and Vigna 2018), seeded by splitmix64. Four words of state, which a checkpoint can
/// hold.
class Random {
 public:
  explicit Random(std::uint64_t seed = 0) {
    for (auto& word : state) {
      seed += 0x9e3779b97f4a7c15U;
      std::uint64_t z = seed;
      z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9U;
      z = (z ^ (z >> 27)) * 0x94d049bb133111ebU;
      word = z ^ (z >> 31);
    }
  }

  std::uint64_t next() {
    const auto turn = [](std::uint64_t x, int k) { return (x << k) | (x >> (64 - k)); };
    const std::uint64_t result = turn(state[1] * 5, 7) * 9;
    const std::uint64_t t = state[1] << 17;
    state[2] ^= state[0];
    state[3] ^= state[1];
    state[1] ^= state[2];
    state[0] ^= state[3];
    state[2] ^= t;
    state[3] = turn(state[3], 45);
    return result;
  }

  /// In [0, 1), 53 bits.
  double uniform() { return static_cast<double>(next() >> 11) * 0x1.0p-53; }

  /// In [0, count); the bias of the modulus is below 2^-32 for every count that occurs here.
  std::uint64_t below(std::uint64_t count) { return next() % count; }

  /// Mean 0, variance 1 (Box and Muller).
  double normal() {
    const double radius = std::sqrt(-2.0 * std::log(1.0 - uniform()));
    return radius * std::cos(2.0 * std::numbers::pi * uniform());
  }

  std::uint64_t state[4];
};

}  // namespace fathom
