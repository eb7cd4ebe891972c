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
inline int8x16_t lower_four_bits(int8x16_t both) { return vandq_s8(both, vdupq_n_s8(15)); }
inline int8x16_t upper_four_bits(int8x16_t both) {
  return vreinterpretq_s8_u8(vshrq_n_u8(vreinterpretq_u8_s8(both), 4));
}

// A vector of weights: four inputs of four outputs.
template <int Q>
inline int8x16_t eight_bits(const Panels<Q>& weights, int q, std::int64_t k, int i) {
  return load_bytes(weights.at(q, k * panel_outputs + i * 16));
}
// The vector of four inputs, with four more in the upper halves of its bytes.
template <int Q>
inline int8x16_t four_bits(const Panels<Q>& weights, int q, std::int64_t k, int i) {
  return load_bytes(weights.at(q, k * (panel_outputs / 2) + i * 16));
}

/// A unit by Adder's add<four>(inputs, count, weights, sums), which adds products with weights of 4 or 8 bits
/// of `count` inputs, a multiple of 16.
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
    Adder::template add<false>(x, count, weights, sums);
    to = sums;
  }
  static constexpr std::int32_t group_zero = 0;
  template <int R, int Q>
  [[gnu::always_inline]] static void sum_group(const Inputs<R>& x, const Starts<R>& starts,
                                               std::int64_t count, const Panels<Q>& weights,
                                               Sums128<R, Q>& to) {
    sum<false>(x, starts, count, weights, to);
  }
  template <int R, int Q>
  [[gnu::always_inline]] static void sum_six_bits(const Inputs<R>& x, const Starts<R>& starts,
                                                  std::int64_t count, const Panels<Q>& weights,
                                                  Sums128<R, Q>& to) {
    sum<false>(x, starts, count, weights, to);
  }
  template <int R, int Q>
  [[gnu::always_inline]] static void sum_four_bits(const Inputs<R>& x, const Starts<R>& starts,
                                                   std::int64_t count, const Panels<Q>& weights,
                                                   Sums128<R, Q>& to) {
    sum<true>(x, starts, count, weights, to);
  }

 private:
  template <bool four, int R, int Q>
  [[gnu::always_inline]] static void sum(const Inputs<R>& x, const Starts<R>& starts, std::int64_t count,
                                         const Panels<Q>& weights, Sums128<R, Q>& to) {
    Sums128<R, Q> sums(starts);
    Adder::template add<four>(x, count, weights, sums);
    to = sums;
  }
};

/// SMULL and SADALP: products in 16 bits, where two of 8 bits by 8 have room (2 x 128 x 127 at most), and so
/// have all of 4 bits by 8 of a group, 32 inputs at most (32 x 15 x 127, half of them in each of the pairs
/// that are added up).
struct Widening {
  template <bool four, int R, int Q>
  [[gnu::always_inline]] static void add(const Inputs<R>& x, std::int64_t count, const Panels<Q>& weights,
                                         Sums<Vectors128, R, Q>& sums) {
    for (int q = 0; q < Q; ++q) {
      if constexpr (four)
        add_four(x, count, weights, q, sums);
      else
        add_eight(x, count, weights, q, sums);
    }
  }

 private:
  static constexpr int vectors = panel_vectors<Vectors128>;

  struct Halves {
    int16x8_t low, high;
    [[gnu::always_inline]] void set(int8x16_t of, int8x16_t by) {
      low = vmull_s8(vget_low_s8(of), vget_low_s8(by));
      high = vmull_high_s8(of, by);
    }
    [[gnu::always_inline]] void add(int8x16_t of, int8x16_t by) {
      low = vmlal_s8(low, vget_low_s8(of), vget_low_s8(by));
      high = vmlal_high_s8(high, of, by);
    }
    [[gnu::always_inline]] int32x4_t added_to(int32x4_t sum) const {
      return vpadalq_s16(sum, vpaddq_s16(low, high));
    }
  };

  static int8x16_t four_inputs(const std::byte* from) {
    return vreinterpretq_s8_s32(vld1q_dup_s32(reinterpret_cast<const std::int32_t*>(from)));
  }

  template <int R, int Q>
  [[gnu::always_inline]] static void add_eight(const Inputs<R>& x, std::int64_t count,
                                               const Panels<Q>& weights, int q,
                                               Sums<Vectors128, R, Q>& sums) {
    for (std::int64_t k = 0; k < count; k += 4) {
      int8x16_t values[R];
      for (int r = 0; r < R; ++r) values[r] = four_inputs(x.of[r] + k);
      fetch_ahead(weights.at(q, k * panel_outputs));
      unrolled<vectors>([&](auto i) __attribute__((always_inline)) {
        const int8x16_t w = eight_bits(weights, q, k, i);
        unrolled<R>([&](auto r) __attribute__((always_inline)) {
          Halves halves;
          halves.set(w, values[r]);
          sums.of[r][q][i] = halves.added_to(sums.of[r][q][i]);
        });
      });
    }
  }

  // Half of the outputs at a time: for four rows their sums in 16 bits fill 16 registers.
  template <int R, int Q>
  [[gnu::always_inline]] static void add_four(const Inputs<R>& x, std::int64_t count,
                                              const Panels<Q>& weights, int q, Sums<Vectors128, R, Q>& sums) {
    constexpr int together = vectors / 2;
    unrolled<2>([&](auto half) __attribute__((always_inline)) {
      Halves halves[R][together];
      for (int r = 0; r < R; ++r)
        for (Halves& some : halves[r]) some = {vdupq_n_s16(0), vdupq_n_s16(0)};
      for (std::int64_t k = 0; k < count; k += 8) {
        fetch_ahead(weights.at(q, k * (panel_outputs / 2)));
        unrolled<together>([&](auto i) __attribute__((always_inline)) {
          const int8x16_t both = four_bits(weights, q, k, half * together + i);
          const int8x16_t lower = lower_four_bits(both), upper = upper_four_bits(both);
          unrolled<R>([&](auto r) __attribute__((always_inline)) {
            halves[r][i].add(lower, four_inputs(x.of[r] + k));
            halves[r][i].add(upper, four_inputs(x.of[r] + k + 4));
          });
        });
      }
      for (int r = 0; r < R; ++r)
        for (int i = 0; i < together; ++i) {
          int32x4_t& sum = sums.of[r][q][half * together + i];
          sum = halves[r][i].added_to(sum);
        }
    });
  }
};

#if defined(__ARM_FEATURE_DOTPROD)
/// SDOT: four products and a sum in each lane, with the same four inputs of a row, a lane of sixteen.
struct Dots {
  template <bool four, int R, int Q>
  [[gnu::always_inline]] static void add(const Inputs<R>& x, std::int64_t count, const Panels<Q>& weights,
                                         Sums<Vectors128, R, Q>& sums) {
    for (std::int64_t k = 0; k < count; k += 16) {
      int8x16_t values[R];
      for (int r = 0; r < R; ++r) values[r] = load_bytes(x.of[r] + k);
      const auto add_lane = [&](auto lane, int8x16_t w, int q, int i) __attribute__((always_inline)) {
        unrolled<R>([&](auto r) __attribute__((always_inline)) {
          sums.of[r][q][i] = vdotq_laneq_s32(sums.of[r][q][i], w, values[r], decltype(lane)::value);
        });
      };
      unrolled<four ? 2 : 4>([&](auto step) __attribute__((always_inline)) {
        unrolled<Q>([&](auto q) __attribute__((always_inline)) {
          fetch_ahead(weights.at(q, k * (panel_outputs / (four ? 2 : 1)) + step * 64));
          unrolled<panel_vectors<Vectors128>>([&](auto i) __attribute__((always_inline)) {
            if constexpr (four) {
              const int8x16_t both = four_bits(weights, q, k + step * 8, i);
              add_lane(std::integral_constant<int, step * 2>(), lower_four_bits(both), q, i);
              add_lane(std::integral_constant<int, step * 2 + 1>(), upper_four_bits(both), q, i);
            } else {
              add_lane(step, eight_bits(weights, q, k + step * 4, i), q, i);
            }
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
  template <bool four, int R, int Q>
  [[gnu::always_inline]] static void add(const Inputs<R>& x, std::int64_t count, const Panels<Q>& weights,
                                         Sums<Vectors128, R, Q>& sums) {
    if constexpr (R == 4) {
      for (int q = 0; q < Q; ++q) add_pairs<four>(x, count, weights, q, sums);
    } else {
      Dots::add<four>(x, count, weights, sums);
    }
  }

 private:
  static constexpr int vectors = panel_vectors<Vectors128>;

  template <bool four, int Q>
  [[gnu::always_inline]] static void add_pairs(const Inputs<4>& x, std::int64_t count,
                                               const Panels<Q>& weights, int q,
                                               Sums<Vectors128, 4, Q>& sums) {
    int32x4_t squares[2][2 * vectors];  // of two rows and two outputs: 00, 01, 10, 11
    for (auto& of_rows : squares)
      for (int32x4_t& square : of_rows) square = vdupq_n_s32(0);
    for (std::int64_t k = 0; k < count; k += 8) {
      const int8x16_t rows[2] = {eight_of_two(x.of[0] + k, x.of[1] + k),
                                 eight_of_two(x.of[2] + k, x.of[3] + k)};
      fetch_ahead(weights.at(q, k * (panel_outputs / (four ? 2 : 1))));
      if (!four) fetch_ahead(weights.at(q, (k + 4) * panel_outputs));
      unrolled<vectors>([&](auto i) __attribute__((always_inline)) {
        int32x4_t first, second;  // four inputs each
        if constexpr (four) {
          const int8x16_t both = four_bits(weights, q, k, i);
          first = vreinterpretq_s32_s8(lower_four_bits(both));
          second = vreinterpretq_s32_s8(upper_four_bits(both));
        } else {
          first = vreinterpretq_s32_s8(eight_bits(weights, q, k, i));
          second = vreinterpretq_s32_s8(eight_bits(weights, q, k + 4, i));
        }
        const int8x16_t lower = vreinterpretq_s8_s32(vzip1q_s32(first, second)),
                        upper = vreinterpretq_s8_s32(vzip2q_s32(first, second));
        unrolled<2>([&](auto pair) __attribute__((always_inline)) {
          squares[pair][2 * i] = vmmlaq_s32(squares[pair][2 * i], rows[pair], lower);
          squares[pair][2 * i + 1] = vmmlaq_s32(squares[pair][2 * i + 1], rows[pair], upper);
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

  static int8x16_t eight_of_two(const std::byte* first, const std::byte* second) {
    return vcombine_s8(vld1_s8(reinterpret_cast<const std::int8_t*>(first)),
                       vld1_s8(reinterpret_cast<const std::int8_t*>(second)));
  }
};
#endif

}  // namespace
}  // namespace fathom::products
