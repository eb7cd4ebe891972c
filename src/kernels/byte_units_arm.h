// As byte_units.h, for ARM: by widening (NEON), by SDOT, by SMMLA. All multiply signed by signed bytes, so
// that nothing is to be taken away but what 4-bit weights are stored with.
#pragma once

#include "kernels/byte_units.h"
#include "kernels/byte_vectors_arm.h"

namespace fathom::products {
namespace {

inline int8x16_t load_bytes(const std::byte* from) {
  return vld1q_s8(reinterpret_cast<const std::int8_t*>(from));
}

/// Weights of 16 inputs as they are stored (packed_matrix.h), in as many rows of 64 bytes as half of their
/// bits.
template <int bits>
struct SixteenInputs {
  template <int Q>
  [[gnu::always_inline]] SixteenInputs(const Panels<Q>& weights, int q, std::int64_t k) {
    for (int j = 0; j < bits / 2; ++j) rows[j] = weights.read(q, (k / 16 * (bits / 2) + j) * 64);
  }
  /// Those of the four outputs of vector `i`: of[j] has inputs 4 j to 4 j + 3.
  [[gnu::always_inline]] void get(int i, int8x16_t (&of)[4]) const {
    const auto row = [&](int j) { return load_bytes(rows[j] + i * 16); };
    if constexpr (bits == 8) {
      for (int j = 0; j < 4; ++j) of[j] = row(j);
      return;
    }
    for (int j = 0; j < 2; ++j) {
      const int8x16_t both = row(j);
      of[2 * j] = vandq_s8(both, vdupq_n_s8(15));
      of[2 * j + 1] = vreinterpretq_s8_u8(vshrq_n_u8(vreinterpretq_u8_s8(both), 4));
    }
    if constexpr (bits == 6) {
      const int8x16_t above = row(2), two = vdupq_n_s8(0x30);
      of[0] = vorrq_s8(of[0], vandq_s8(vshlq_n_s8(above, 4), two));
      of[1] = vorrq_s8(of[1], vandq_s8(vshlq_n_s8(above, 2), two));
      of[2] = vorrq_s8(of[2], vandq_s8(above, two));
      of[3] = vorrq_s8(of[3], vandq_s8(vshrq_n_s8(above, 2), two));
    }
  }
  const std::byte* rows[bits / 2];
};

/// A unit by Adder's add<bits>(inputs, count, weights, sums), which adds products of `count` inputs, a
/// multiple of 16.
template <typename Adder>
struct SignedUnit {
  using Vectors = Vectors128;
  template <int R, int Q>
  using Sums128 = Sums<Vectors128, R, Q>;

  static Vectors128::Ints whole_start(const std::int32_t*) { return Vectors128::all(0); }
  template <int R, int Q>
  [[gnu::always_inline]] static void add_whole(const Inputs<R>& x, std::int64_t count,
                                               const Panels<Q>& weights, Sums128<R, Q>& to) {
    Sums128<R, Q> sums = to;
    Adder::template add<8>(x, count, weights, sums);
    to = sums;
  }
  static constexpr std::int32_t group_zero = 0;
  template <int R, int Q>
  [[gnu::always_inline]] static void sum_group(const Inputs<R>& x, const Starts<R>& starts,
                                               std::int64_t count, const Panels<Q>& weights,
                                               Sums128<R, Q>& to) {
    sum<8>(x, starts, count, weights, to);
  }
  template <int R, int Q>
  [[gnu::always_inline]] static void sum_wide_six_bits(const Inputs<R>& x, const Starts<R>& starts,
                                                       std::int64_t count, const Panels<Q>& weights,
                                                       Sums128<R, Q>& to) {
    sum<8>(x, starts, count, weights, to);
  }
  template <int R, int Q>
  [[gnu::always_inline]] static void sum_six_bits(const Inputs<R>& x, const Starts<R>& starts,
                                                  std::int64_t count, const Panels<Q>& weights,
                                                  Sums128<R, Q>& to) {
    sum<6>(x, starts, count, weights, to);
  }
  template <int R, int Q>
  [[gnu::always_inline]] static void sum_four_bits(const Inputs<R>& x, const Starts<R>& starts,
                                                   std::int64_t count, const Panels<Q>& weights,
                                                   Sums128<R, Q>& to) {
    sum<4>(x, starts, count, weights, to);
  }

 private:
  template <int bits, int R, int Q>
  [[gnu::always_inline]] static void sum(const Inputs<R>& x, const Starts<R>& starts, std::int64_t count,
                                         const Panels<Q>& weights, Sums128<R, Q>& to) {
    Sums128<R, Q> sums(starts);
    Adder::template add<bits>(x, count, weights, sums);
    to = sums;
  }
};

/// SMULL, SMLAL and SADALP. In 16 bits two products with 8 bits have room, 2 x 128 x 127 at most, four with 6
/// bits (63 x 127) and eight with 4 (15 x 127); half as many in each of the pairs that are added up there.
struct Widening {
  template <int bits, int R, int Q>
  [[gnu::always_inline]] static void add(const Inputs<R>& x, std::int64_t count, const Panels<Q>& weights,
                                         Sums<Vectors128, R, Q>& sums) {
    constexpr int together = bits == 8 ? 1 : bits == 6 ? 2 : 4;
    for (std::int64_t k = 0; k < count; k += 16) {
      unrolled<Q>([&](auto q) __attribute__((always_inline)) {
        const SixteenInputs<bits> stored(weights, q, k);
        unrolled<panel_vectors<Vectors128>>([&](auto i) __attribute__((always_inline)) {
          int8x16_t w[4];
          stored.get(i, w);
          unrolled<R>([&](auto r) __attribute__((always_inline)) {
            unrolled<4 / together>([&](auto turn) __attribute__((always_inline)) {
              constexpr int first = turn * together;
              const int8x16_t value = four_inputs(x.of[r] + k + first * 4);
              int16x8_t low = vmull_s8(vget_low_s8(w[first]), vget_low_s8(value));
              int16x8_t high = vmull_high_s8(w[first], value);
              for (int j = first + 1; j < first + together; ++j) {
                const int8x16_t next = four_inputs(x.of[r] + k + j * 4);
                low = vmlal_s8(low, vget_low_s8(w[j]), vget_low_s8(next));
                high = vmlal_high_s8(high, w[j], next);
              }
              sums.of[r][q][i] = vpadalq_s16(sums.of[r][q][i], vpaddq_s16(low, high));
            });
          });
        });
      });
    }
  }

 private:
  static int8x16_t four_inputs(const std::byte* from) {
    return vreinterpretq_s8_s32(vld1q_dup_s32(reinterpret_cast<const std::int32_t*>(from)));
  }
};

#if defined(__ARM_FEATURE_DOTPROD)
/// SDOT: four products and a sum in each lane, with the same four inputs of a row, a lane of sixteen.
struct Dots {
  template <int bits, int R, int Q>
  [[gnu::always_inline]] static void add(const Inputs<R>& x, std::int64_t count, const Panels<Q>& weights,
                                         Sums<Vectors128, R, Q>& sums) {
    for (std::int64_t k = 0; k < count; k += 16) {
      int8x16_t values[R];
      for (int r = 0; r < R; ++r) values[r] = load_bytes(x.of[r] + k);
      unrolled<Q>([&](auto q) __attribute__((always_inline)) {
        const SixteenInputs<bits> stored(weights, q, k);
        unrolled<panel_vectors<Vectors128>>([&](auto i) __attribute__((always_inline)) {
          int8x16_t w[4];
          stored.get(i, w);
          unrolled<4>([&](auto j) __attribute__((always_inline)) {
            unrolled<R>([&](auto r) __attribute__((always_inline)) {
              sums.of[r][q][i] = vdotq_laneq_s32(sums.of[r][q][i], w[j], values[r], decltype(j)::value);
            });
          });
        });
      });
    }
  }
};
#endif

#if defined(__ARM_FEATURE_MATMUL_INT8)
/// SMMLA: eight inputs of two outputs times those of two rows, 32 products in an instruction. Weights lie
/// four inputs at a time, and are put side by side to eight first: that is worth it for four rows. Others
/// take SDOT.
struct TwoByTwo {
  template <int bits, int R, int Q>
  [[gnu::always_inline]] static void add(const Inputs<R>& x, std::int64_t count, const Panels<Q>& weights,
                                         Sums<Vectors128, R, Q>& sums) {
    if constexpr (R == 4) {
      for (int q = 0; q < Q; ++q) add_pairs<bits>(x, count, weights, q, sums);
    } else {
      Dots::add<bits>(x, count, weights, sums);
    }
  }

 private:
  static constexpr int vectors = panel_vectors<Vectors128>;

  template <int bits, int Q>
  [[gnu::always_inline]] static void add_pairs(const Inputs<4>& x, std::int64_t count,
                                               const Panels<Q>& weights, int q,
                                               Sums<Vectors128, 4, Q>& sums) {
    int32x4_t squares[2][2 * vectors];  // of two rows and two outputs: 00, 01, 10, 11
    for (auto& of_rows : squares)
      for (int32x4_t& square : of_rows) square = vdupq_n_s32(0);
    for (std::int64_t k = 0; k < count; k += 16) {
      int8x16_t rows[2][2];  // of each pair of rows inputs k to k + 7, and the next eight
      for (int pair = 0; pair < 2; ++pair) {
        const int64x2_t first = vreinterpretq_s64_s8(load_bytes(x.of[2 * pair] + k)),
                        second = vreinterpretq_s64_s8(load_bytes(x.of[2 * pair + 1] + k));
        rows[pair][0] = vreinterpretq_s8_s64(vzip1q_s64(first, second));
        rows[pair][1] = vreinterpretq_s8_s64(vzip2q_s64(first, second));
      }
      const SixteenInputs<bits> stored(weights, q, k);
      unrolled<vectors>([&](auto i) __attribute__((always_inline)) {
        int8x16_t w[4];
        stored.get(i, w);
        unrolled<2>([&](auto half) __attribute__((always_inline)) {
          const int32x4_t first = vreinterpretq_s32_s8(w[2 * half]),
                          second = vreinterpretq_s32_s8(w[2 * half + 1]);
          const int8x16_t left = vreinterpretq_s8_s32(vzip1q_s32(first, second)),
                          right = vreinterpretq_s8_s32(vzip2q_s32(first, second));
          unrolled<2>([&](auto pair) __attribute__((always_inline)) {
            squares[pair][2 * i] = vmmlaq_s32(squares[pair][2 * i], rows[pair][half], left);
            squares[pair][2 * i + 1] = vmmlaq_s32(squares[pair][2 * i + 1], rows[pair][half], right);
          });
        });
      });
    }
    for (int pair = 0; pair < 2; ++pair)
      for (int i = 0; i < vectors; ++i) {
        const int64x2_t left = vreinterpretq_s64_s32(squares[pair][2 * i]),
                        right = vreinterpretq_s64_s32(squares[pair][2 * i + 1]);
        int32x4_t &first = sums.of[2 * pair][q][i], &second = sums.of[2 * pair + 1][q][i];
        first = vaddq_s32(first, vreinterpretq_s32_s64(vzip1q_s64(left, right)));
        second = vaddq_s32(second, vreinterpretq_s32_s64(vzip2q_s64(left, right)));
      }
  }
};
#endif

}  // namespace
}  // namespace fathom::products
