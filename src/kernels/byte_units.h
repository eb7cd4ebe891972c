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

/// R rows' sums for the 16 outputs of each of Q panels.
template <typename V, int R, int Q>
struct Sums {
  typename V::Ints of[R][Q][panel_vectors<V>];

  [[gnu::always_inline]] void set(int r, typename V::Ints value) {
    for (auto& panel : of[r])
      for (auto& sum : panel) sum = value;
  }
};

/// Weights of Q panels, from one input on.
struct Panels {
  const std::byte* first = nullptr;
  std::int64_t apart = 0;  ///< bytes from one panel to the next
  const std::byte* at(int q, std::int64_t offset) const { return first + q * apart + offset; }
};

/// Where R rows have inputs that lie within 64 bytes.
template <int R>
struct Inputs {
  Inputs(const Activations& x, std::int64_t row, std::int64_t first) {
    for (int r = 0; r < R; ++r) of[r] = x.data + tiled_offset(x.stride, row + r, first);
  }
  const std::byte* of[R];
};

// Four inputs of a row in each lane.
template <typename V>
typename V::Ints four(const std::byte* from) {
  return V::all(*reinterpret_cast<const std::int32_t*>(from));
}

// A single row is bound by reading the weights. Panels take turns by groups, in runs that the processor does
// not foresee: these are fetched so far ahead. It makes a row 1.05 (8 bits) to 1.2 times (4 bits) as fast.
inline void fetch_ahead(const std::byte* weights) {
  constexpr std::int64_t ahead = 2048;
  __builtin_prefetch(weights + ahead);
}

// Calls body(k, w) for each four inputs of Q panels with 4-bit weights.
template <typename V, int Q, typename Body>
[[gnu::always_inline]] inline void each_four(std::int64_t count, const Panels& weights, Body&& body) {
  constexpr int vectors = panel_vectors<V>;
  for (std::int64_t k = 0; k < count; k += 8) {
    typename V::Ints both[Q][vectors], w[Q][vectors];
    unrolled<Q>([&](auto q) __attribute__((always_inline)) {
      const std::byte* stored = weights.at(q, k * (panel_outputs / 2));
      fetch_ahead(stored);
      for (int i = 0; i < vectors; ++i) {
        both[q][i] = V::load(stored + i * V::lanes * 4);
        w[q][i] = V::and_(both[q][i], V::all_bytes(15));
      }
    });
    body(k, w);
    unrolled<Q>([&](auto q) __attribute__((always_inline)) {
      for (int i = 0; i < vectors; ++i) w[q][i] = V::upper_four_bits(both[q][i]);
    });
    body(k + 4, w);
  }
}

// Calls body(q, i, w) for each vector of four inputs' 8-bit weights.
template <typename V, int Q, typename Body>
[[gnu::always_inline]] inline void each_vector(std::int64_t k, const Panels& weights, Body&& body) {
  unrolled<Q>([&](auto q) __attribute__((always_inline)) {
    const std::byte* stored = weights.at(q, k * panel_outputs);
    fetch_ahead(stored);
    unrolled<panel_vectors<V>>([&](auto i) __attribute__((always_inline)) {
      body(q, i, V::load(stored + i * V::lanes * 4));
    });
  });
}

// Four inputs of each row.
template <typename V, int R>
struct Values {
  [[gnu::always_inline]] Values(const Inputs<R>& x, std::int64_t k) {
    for (int r = 0; r < R; ++r) of[r] = four<V>(x.of[r] + k);
  }
  typename V::Ints of[R];
};

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
  [[gnu::always_inline]] static void add_whole(const Inputs<R>& x, std::int64_t count, const Panels& weights,
                                               Sums<V, R, Q>& sums) {
    for (std::int64_t k = 0; k < count; k += 4) {
      Values<V, R> values(x, k);
      for (Ints& value : values.of) value = V::xor_(value, V::all_bytes(-128));
      each_vector<V, Q>(
          k, weights, [&](auto q, auto i, Ints w) __attribute__((always_inline)) {
            unrolled<R>([&](auto r)
                            __attribute__((always_inline)) { dot(sums.of[r][q][i], values.of[r], w); });
          });
    }
  }

  // In groups weights become unsigned, since the sums of their activations are at hand.
  static constexpr std::int32_t group_zero = 128;
  template <int R, int Q>
  [[gnu::always_inline]] static void add_group(const Inputs<R>& x, std::int64_t count, const Panels& weights,
                                               Sums<V, R, Q>& sums) {
    for (std::int64_t k = 0; k < count; k += 4) {
      const Values<V, R> values(x, k);
      each_vector<V, Q>(
          k, weights, [&](auto q, auto i, Ints w) __attribute__((always_inline)) {
            const Ints flipped = V::xor_(w, V::all_bytes(-128));
            unrolled<R>([&](auto r)
                            __attribute__((always_inline)) { dot(sums.of[r][q][i], flipped, values.of[r]); });
          });
    }
  }

  template <int R, int Q>
  [[gnu::always_inline]] static void add_four_bits(const Inputs<R>& x, std::int64_t count,
                                                   const Panels& weights, Sums<V, R, Q>& sums) {
    each_four<V, Q>(
        count, weights, [&](std::int64_t k, const auto& w) __attribute__((always_inline)) {
          const Values<V, R> values(x, k);
          unrolled<Q>([&](auto q) __attribute__((always_inline)) {
            unrolled<panel_vectors<V>>([&](auto i) __attribute__((always_inline)) {
              unrolled<R>([&](auto r) __attribute__((always_inline)) {
                dot(sums.of[r][q][i], w[q][i], values.of[r]);
              });
            });
          });
        });
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
  [[gnu::always_inline]] static void add_whole(const Inputs<R>& x, std::int64_t count, const Panels& weights,
                                               Sums<V, R, Q>& sums) {
    for (std::int64_t k = 0; k < count; k += 4) {
      const Values<V, R> values(x, k);
      each_vector<V, Q>(
          k, weights, [&](auto q, auto i, Ints stored) __attribute__((always_inline)) {
            const typename V::Signed w(stored);
            unrolled<R>([&](auto r) __attribute__((always_inline)) {
              Ints& sum = sums.of[r][q][i];
              sum = V::add(sum, V::sum_pairs(V::pairs(w.magnitude, w.give_to(values.of[r]))));
              V::stay(sum);
            });
          });
    }
  }

  static constexpr std::int32_t group_zero = 0;
  template <int R, int Q>
  [[gnu::always_inline]] static void add_group(const Inputs<R>& x, std::int64_t count, const Panels& weights,
                                               Sums<V, R, Q>& sums) {
    add_whole(x, count, weights, sums);
  }

  // 32 inputs at most.
  template <int R, int Q>
  [[gnu::always_inline]] static void add_four_bits(const Inputs<R>& x, std::int64_t count,
                                                   const Panels& weights, Sums<V, R, Q>& sums) {
    Sums<V, R, Q> halves;  // in 16 bits
    unrolled<R>([&](auto r) __attribute__((always_inline)) { halves.set(r, V::all(0)); });
    each_four<V, Q>(
        count, weights, [&](std::int64_t k, const auto& w) __attribute__((always_inline)) {
          const Values<V, R> values(x, k);
          unrolled<Q>([&](auto q) __attribute__((always_inline)) {
            unrolled<panel_vectors<V>>([&](auto i) __attribute__((always_inline)) {
              unrolled<R>([&](auto r) __attribute__((always_inline)) {
                Ints& sum = halves.of[r][q][i];
                sum = V::add_halves(sum, V::pairs(w[q][i], values.of[r]));
                V::stay(sum);
              });
            });
          });
        });
    unrolled<R>([&](auto r) __attribute__((always_inline)) {
      for (int q = 0; q < Q; ++q)
        for (int i = 0; i < panel_vectors<V>; ++i)
          sums.of[r][q][i] = V::add(sums.of[r][q][i], V::sum_pairs(halves.of[r][q][i]));
    });
  }
};

}  // namespace
}  // namespace fathom::products
