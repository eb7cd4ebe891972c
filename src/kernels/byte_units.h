// How a processor multiplies bytes and adds up four neighbours in 32 bits: by VNNI, or without it. As
// byte_vectors.h, for the files named after an instruction set alone.
//
// A unit adds products of a few rows' inputs with weights as they are stored (packed_matrix.h) to sums of 16
// outputs. What it adds too much for its own convenience, it says beforehand: what sums begin with takes it
// away.
#pragma once

#include <type_traits>
#include <utility>

#if defined(__x86_64__)
#include "kernels/byte_vectors.h"
#endif
#include "kernels/product.h"

namespace fathom::products {
namespace {

// Calls body(0), ..., body(N - 1) with constants: what is indexed by them becomes registers early enough.
template <int N, typename Body>
[[gnu::always_inline]] inline void unrolled(Body&& body) {
  [&]<int... I>(std::integer_sequence<int, I...>) __attribute__((always_inline)) {
    (body(std::integral_constant<int, I>()), ...);
  }
  (std::make_integer_sequence<int, N>());
}

/// Vectors of a panel's 16 outputs.
template <typename V>
inline constexpr int panel_vectors = panel_outputs / V::lanes;

/// What R rows' sums begin with.
template <int R>
struct Starts {
  std::int32_t of[R];
};

/// R rows' sums for the 16 outputs of each of Q panels. Loops add to a copy, which stays in registers.
template <typename V, int R, int Q>
struct Sums {
  Sums() = default;
  [[gnu::always_inline]] explicit Sums(const Starts<R>& starts) {
    unrolled<R>([&](auto r) __attribute__((always_inline)) { set(r, V::all(starts.of[r])); });
  }
  [[gnu::always_inline]] void set(int r, typename V::Ints value) {
    for (auto& panel : of[r])
      for (auto& sum : panel) sum = value;
  }
  typename V::Ints of[R][Q][panel_vectors<V>];
};

/// Weights of Q panels, from one input on. What lies `ahead` bytes behind what is read is fetched: a single
/// row is bound by reading the weights, and panels take turns in runs that the processor does not foresee.
template <int Q>
struct Panels {
  [[gnu::always_inline]] Panels(const std::byte* const (&weights)[Q], std::int64_t offset,
                                std::int64_t bytes_ahead)
      : ahead(bytes_ahead) {
    for (int q = 0; q < Q; ++q) from[q] = weights[q] + offset;
  }
  [[gnu::always_inline]] const std::byte* read(int q, std::int64_t offset) const {
    const std::byte* here = from[q] + offset;
    __builtin_prefetch(here + ahead);
    return here;
  }
  const std::byte* from[Q];
  std::int64_t ahead;
};

/// Where R rows have inputs that lie within 64 bytes.
template <int R>
struct Inputs {
  const std::byte* of[R];
};

// Four inputs of a row in each lane.
template <typename V>
typename V::Ints four(const std::byte* from) {
  return V::all(*reinterpret_cast<const std::int32_t*>(from));
}

// Calls body(q, i) with constants for each vector of Q panels.
template <typename V, int Q, typename Body>
[[gnu::always_inline]] inline void each_vector(Body&& body) {
  unrolled<Q>([&](auto q) __attribute__((always_inline)) {
    unrolled<panel_vectors<V>>([&](auto i) __attribute__((always_inline)) { body(q, i); });
  });
}

// Calls body(r, value, q, i) for each row's four inputs, which are `value`, and each vector of Q panels.
// Weights stay in registers meanwhile, values take turns.
template <typename V, int R, int Q, typename Body>
[[gnu::always_inline]] inline void each_product(const Inputs<R>& x, std::int64_t k, Body&& body) {
  unrolled<R>([&](auto r) __attribute__((always_inline)) {
    const typename V::Ints value = four<V>(x.of[r] + k);
    each_vector<V, Q>([&](auto q, auto i) __attribute__((always_inline)) { body(r, value, q, i); });
  });
}

template <typename V>
struct AsStored {
  AsStored() = default;
  [[gnu::always_inline]] explicit AsStored(typename V::Ints bytes) : of(bytes) {}
  typename V::Ints of;
};

// Four inputs' 8-bit weights, each vector made a T.
template <typename V, int Q, typename T = AsStored<V>>
struct Weights {
  [[gnu::always_inline]] Weights(const Panels<Q>& panels, std::int64_t k) {
    unrolled<Q>([&](auto q) __attribute__((always_inline)) {
      const std::byte* stored = panels.read(q, k * panel_outputs);
      for (int i = 0; i < panel_vectors<V>; ++i) of[q][i] = T(V::load(stored + i * V::lanes * 4));
    });
  }
  T of[Q][panel_vectors<V>];
};

// Sixteen inputs' 6-bit weights as they are stored (packed_matrix.h): of[j] are those of inputs 4 j to 4 j
// + 3.
template <typename V, int Q>
struct SixBitWeights {
  [[gnu::always_inline]] SixBitWeights(const Panels<Q>& panels, std::int64_t k) {
    const auto low = V::all_bytes(15), two = V::all_bytes(0x30);
    unrolled<Q>([&](auto q) __attribute__((always_inline)) {
      const std::int64_t row = k / 16 * 3 * 64;
      const std::byte *first = panels.read(q, row), *second = panels.read(q, row + 64);
      const std::byte* above = panels.read(q, row + 128);
      unrolled<panel_vectors<V>>([&](auto i) __attribute__((always_inline)) {
        constexpr int at = i * V::lanes * 4;
        const auto a = V::load(first + at), b = V::load(second + at), high = V::load(above + at);
        of[0][q][i] = V::or_(V::and_(a, low), V::and_(V::template left<4>(high), two));
        of[1][q][i] = V::or_(V::upper_four_bits(a), V::and_(V::template left<2>(high), two));
        of[2][q][i] = V::or_(V::and_(b, low), V::and_(high, two));
        of[3][q][i] = V::or_(V::upper_four_bits(b), V::and_(V::template right<2>(high), two));
      });
    });
  }
  typename V::Ints of[4][Q][panel_vectors<V>];
};

// Calls body(k, w) for each four inputs of Q panels with 4-bit weights.
template <typename V, int Q, typename Body>
[[gnu::always_inline]] inline void each_four(std::int64_t count, const Panels<Q>& panels, Body&& body) {
  for (std::int64_t k = 0; k < count; k += 8) {
    const Weights<V, Q> both(panels, k / 2);
    typename V::Ints w[Q][panel_vectors<V>];
    each_vector<V, Q>([&](auto q, auto i) __attribute__((always_inline)) {
      w[q][i] = V::and_(both.of[q][i].of, V::all_bytes(15));
    });
    body(k, w);
    each_vector<V, Q>([&](auto q, auto i)
                          __attribute__((always_inline)) { w[q][i] = V::upper_four_bits(both.of[q][i].of); });
    body(k + 4, w);
  }
}

/// vpdpbusd: unsigned with signed bytes, four products and a sum in one instruction.
template <typename V>
struct Vnni {
  using Vectors = V;
  using Ints = typename V::Ints;

  // Activations become unsigned by adding 128, which the panel's offsets take away again.
  static Ints whole_start(const std::int32_t* offsets) {
    return V::load(reinterpret_cast<const std::byte*>(offsets));
  }
  template <int R, int Q>
  [[gnu::always_inline]] static void add_whole(const Inputs<R>& x, std::int64_t count,
                                               const Panels<Q>& panels, Sums<V, R, Q>& to) {
    Sums<V, R, Q> sums = to;
    for (std::int64_t k = 0; k < count; k += 4) {
      const Weights<V, Q> w(panels, k);
      unrolled<R>([&](auto r) __attribute__((always_inline)) {
        const Ints value = V::xor_(four<V>(x.of[r] + k), V::all_bytes(-128));
        each_vector<V, Q>([&](auto q, auto i) __attribute__((always_inline)) {
          dot(sums.of[r][q][i], value, w.of[q][i].of);
        });
      });
    }
    to = sums;
  }

  // In groups weights become unsigned, since the sums of their activations are at hand.
  static constexpr std::int32_t group_zero = 128;
  template <int R, int Q>
  [[gnu::always_inline]] static void sum_group(const Inputs<R>& x, const Starts<R>& starts,
                                               std::int64_t count, const Panels<Q>& panels,
                                               Sums<V, R, Q>& to) {
    struct Flipped {
      Flipped() = default;
      [[gnu::always_inline]] explicit Flipped(Ints bytes) : of(V::xor_(bytes, V::all_bytes(-128))) {}
      Ints of;
    };
    Sums<V, R, Q> sums(starts);
    for (std::int64_t k = 0; k < count; k += 4) {
      const Weights<V, Q, Flipped> w(panels, k);
      each_product<V, R, Q>(
          x, k, [&](auto r, Ints value, auto q, auto i) __attribute__((always_inline)) {
            dot(sums.of[r][q][i], w.of[q][i].of, value);
          });
    }
    to = sums;
  }

  template <int R, int Q>
  [[gnu::always_inline]] static void sum_six_bits(const Inputs<R>& x, const Starts<R>& starts,
                                                  std::int64_t count, const Panels<Q>& panels,
                                                  Sums<V, R, Q>& to) {
    Sums<V, R, Q> sums(starts);
    for (std::int64_t k = 0; k < count; k += 16) {
      const SixBitWeights<V, Q> w(panels, k);
      unrolled<4>([&](auto j) __attribute__((always_inline)) {
        each_product<V, R, Q>(
            x, k + 4 * j, [&](auto r, Ints value, auto q, auto i) __attribute__((always_inline)) {
              dot(sums.of[r][q][i], w.of[j][q][i], value);
            });
      });
    }
    to = sums;
  }

  // 6 bits in bytes.
  template <int R, int Q>
  [[gnu::always_inline]] static void sum_wide_six_bits(const Inputs<R>& x, const Starts<R>& starts,
                                                       std::int64_t count, const Panels<Q>& panels,
                                                       Sums<V, R, Q>& to) {
    Sums<V, R, Q> sums(starts);
    for (std::int64_t k = 0; k < count; k += 4) {
      const Weights<V, Q> w(panels, k);
      each_product<V, R, Q>(
          x, k, [&](auto r, Ints value, auto q, auto i) __attribute__((always_inline)) {
            dot(sums.of[r][q][i], w.of[q][i].of, value);
          });
    }
    to = sums;
  }

  template <int R, int Q>
  [[gnu::always_inline]] static void sum_four_bits(const Inputs<R>& x, const Starts<R>& starts,
                                                   std::int64_t count, const Panels<Q>& panels,
                                                   Sums<V, R, Q>& to) {
    Sums<V, R, Q> sums(starts);
    each_four<V, Q>(
        count, panels, [&](std::int64_t k, const auto& w) __attribute__((always_inline)) {
          each_product<V, R, Q>(
              x, k, [&](auto r, Ints value, auto q, auto i) __attribute__((always_inline)) {
                dot(sums.of[r][q][i], w[q][i], value);
              });
        });
    to = sums;
  }

 private:
  [[gnu::always_inline]] static void dot(Ints& sum, Ints of, Ints by) {
#if defined(__AVX512VNNI__)
    if constexpr (V::lanes == 16) sum = _mm512_dpbusd_epi32(sum, of, by);
#endif
#if defined(__AVXVNNI__)
    if constexpr (V::lanes == 8) sum = _mm256_dpbusd_avx_epi32(sum, of, by);
#endif
  }
};

/// vpmaddubsw: unsigned with signed bytes, two products and a sum in 16 bits, which saturates. 4-bit weights
/// are the unsigned factor as they are stored: a group of 32 inputs adds up to 16 * 15 * 127 < 2^15, so that
/// it stays in 16 bits, and two instructions make as many products as four fused multiply-adds of floats. For
/// 8-bit weights the weight's sign goes over to the activation, so that its magnitude, up to 128, is the
/// unsigned factor; two such products fill the 16 bits.
template <typename V>
struct Maddubs {
  using Vectors = V;
  using Ints = typename V::Ints;

  static Ints whole_start(const std::int32_t*) { return V::all(0); }
  template <int R, int Q>
  [[gnu::always_inline]] static void add_whole(const Inputs<R>& x, std::int64_t count,
                                               const Panels<Q>& panels, Sums<V, R, Q>& to) {
    Sums<V, R, Q> sums = to;
    for (std::int64_t k = 0; k < count; k += 4) {
      const Weights<V, Q, typename V::Signed> w(panels, k);
      each_product<V, R, Q>(
          x, k, [&](auto r, Ints value, auto q, auto i) __attribute__((always_inline)) {
            Ints& sum = sums.of[r][q][i];
            sum = V::add(sum, V::sum_pairs(V::pairs(w.of[q][i].magnitude, w.of[q][i].give_to(value))));
            V::stay(sum);
          });
    }
    to = sums;
  }

  static constexpr std::int32_t group_zero = 0;
  template <int R, int Q>
  [[gnu::always_inline]] static void sum_group(const Inputs<R>& x, const Starts<R>& starts,
                                               std::int64_t count, const Panels<Q>& panels,
                                               Sums<V, R, Q>& to) {
    Sums<V, R, Q> sums(starts);
    add_whole(x, count, panels, sums);
    to = sums;
  }

  // Two products of pairs, 4 * 63 * 127 < 2^15, fill the 16 bits.
  template <int R, int Q>
  [[gnu::always_inline]] static void sum_six_bits(const Inputs<R>& x, const Starts<R>& starts,
                                                  std::int64_t count, const Panels<Q>& panels,
                                                  Sums<V, R, Q>& to) {
    Sums<V, R, Q> sums(starts);
    for (std::int64_t k = 0; k < count; k += 16) {
      const SixBitWeights<V, Q> w(panels, k);
      unrolled<2>([&](auto j) __attribute__((always_inline)) {
        add_two(x, k + 8 * j, w.of[2 * j], w.of[2 * j + 1], sums);
      });
    }
    to = sums;
  }

  // 6 bits in bytes.
  template <int R, int Q>
  [[gnu::always_inline]] static void sum_wide_six_bits(const Inputs<R>& x, const Starts<R>& starts,
                                                       std::int64_t count, const Panels<Q>& panels,
                                                       Sums<V, R, Q>& to) {
    Sums<V, R, Q> sums(starts);
    for (std::int64_t k = 0; k < count; k += 8) {
      const Weights<V, Q> first(panels, k), second(panels, k + 4);
      Ints w[2][Q][panel_vectors<V>];
      each_vector<V, Q>([&](auto q, auto i) __attribute__((always_inline)) {
        w[0][q][i] = first.of[q][i].of;
        w[1][q][i] = second.of[q][i].of;
      });
      add_two(x, k, w[0], w[1], sums);
    }
    to = sums;
  }

  // 32 inputs at most.
  template <int R, int Q>
  [[gnu::always_inline]] static void sum_four_bits(const Inputs<R>& x, const Starts<R>& starts,
                                                   std::int64_t count, const Panels<Q>& panels,
                                                   Sums<V, R, Q>& to) {
    Sums<V, R, Q> halves;  // in 16 bits
    unrolled<R>([&](auto r) __attribute__((always_inline)) { halves.set(r, V::all(0)); });
    each_four<V, Q>(
        count, panels, [&](std::int64_t k, const auto& w) __attribute__((always_inline)) {
          each_product<V, R, Q>(
              x, k, [&](auto r, Ints value, auto q, auto i) __attribute__((always_inline)) {
                Ints& sum = halves.of[r][q][i];
                sum = V::add_halves(sum, V::pairs(w[q][i], value));
                V::stay(sum);
              });
        });
    unrolled<R>([&](auto r) __attribute__((always_inline)) {
      const Ints start = V::all(starts.of[r]);
      each_vector<V, Q>([&](auto q, auto i) __attribute__((always_inline)) {
        to.of[r][q][i] = V::add(start, V::sum_pairs(halves.of[r][q][i]));
      });
    });
  }

 private:
  // Adds eight inputs' products with small weights.
  template <int R, int Q>
  [[gnu::always_inline]] static void add_two(const Inputs<R>& x, std::int64_t k,
                                             const Ints (&first)[Q][panel_vectors<V>],
                                             const Ints (&second)[Q][panel_vectors<V>], Sums<V, R, Q>& sums) {
    unrolled<R>([&](auto r) __attribute__((always_inline)) {
      const Ints value = four<V>(x.of[r] + k), next = four<V>(x.of[r] + k + 4);
      each_vector<V, Q>([&](auto q, auto i) __attribute__((always_inline)) {
        const Ints pairs = V::add_halves(V::pairs(first[q][i], value), V::pairs(second[q][i], next));
        sums.of[r][q][i] = V::add(sums.of[r][q][i], V::sum_pairs(pairs));
        V::stay(sums.of[r][q][i]);
      });
    });
  }
};

}  // namespace
}  // namespace fathom::products
