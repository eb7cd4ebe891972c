// Products with integer weights by one of byte_units.h. As these, for the files named after an instruction
// set alone.
//
// A panel is read once for a few rows, whose sums stay in registers; several panels side by side.
#pragma once

#include "kernels/byte_units.h"
#include "kernels/row_blocks.h"

namespace fathom::products {
namespace {

template <typename Unit>
class IntegerProduct {
 public:
  using V = typename Unit::Vectors;
  using Ints = typename V::Ints;
  using Floats = typename V::Floats;
  static constexpr int vectors = panel_vectors<V>;

  IntegerProduct(const PackedMatrix& weight, const Activations& x, const Destination& to)
      : weight_(weight), x_(x), to_(to) {}

  void run(Range rows, Range panels) const {
    std::int64_t panel = panels.first;
    // Few rows are bound by reading the weights, and several streams of memory are faster than one.
    if (rows.last - rows.first <= few)
      for (; panel + 8 <= panels.last; panel += 8) rows_of<8>(rows, panel);
    for (; panel + together <= panels.last; panel += together) rows_of<together>(rows, panel);
    for (; panel + 2 <= panels.last; panel += 2) rows_of<2>(rows, panel);
    if (panel < panels.last) rows_of<1>(rows, panel);
  }

 private:
  // Of 32 registers 4 rows x 4 panels of 512 bits take 16 for sums, and so do 4 rows of a panel of 128 bits;
  // 4 rows of a panel of 256 bits take 8 of 16, beside what is multiplied.
  static constexpr bool wide = V::lanes == 16;
  static constexpr int together = wide ? 4 : 2, few = wide ? 2 : 4;
  /// Panels whose sums are in registers at a time; others take turns.
  template <int R, int P>
  static constexpr int side_by_side = wide                               ? (R <= 2 || P < 4 ? P : 4)
                                      : V::lanes == 4 && R <= 2 && P > 1 ? 2
                                                                         : 1;

  template <int P>
  void rows_of(Range rows, std::int64_t panel) const {
    in_row_blocks<4>(rows,
                     [&](auto count, std::int64_t row) { block_of<decltype(count)::value, P>(row, panel); });
  }

  // Results, in one order of operations for any R and P, so that a row's are the same beside any others.
  template <int R, int P>
  using Totals = Floats[R][P][vectors];

  template <int R, int P>
  void block_of(std::int64_t row, std::int64_t panel) const {
    const std::byte* panels = weight_.panel(panel);
    Totals<R, P> totals;
    if (weight_.type == Compute::int8)
      int8_totals<R, P>(row, panels, totals);
    else if (weight_.type == Compute::int4)
      int4_totals<R, P>(row, panels, totals);
    else if (weight_.four_bits())
      group_totals<R, P, true>(row, panels, totals);
    else
      group_totals<R, P, false>(row, panels, totals);
    write_block(weight_, to_, {row, R, panel, P, totals, nullptr});
  }

  // Calls body(p, sums) for the first of each Q panels whose sums are computed together.
  template <int R, int P, typename Body>
  [[gnu::always_inline]] static void in_turns(Body&& body) {
    constexpr int Q = side_by_side<R, P>;
    unrolled<P / Q>([&](auto turn) __attribute__((always_inline)) {
      Sums<V, R, Q> sums;
      body(turn * Q, sums);
    });
  }

  template <int R, int P>
  void int8_totals(std::int64_t row, const std::byte* panels, Totals<R, P>& totals) const {
    constexpr int Q = side_by_side<R, P>;
    Sums<V, R, Q> sums[P / Q];
    for (int p = 0; p < P; ++p)
      for (int i = 0; i < vectors; ++i)
        for (int r = 0; r < R; ++r)
          sums[p / Q].of[r][p % Q][i] =
              Unit::whole_start(weight_.offsets(panel_at(panels, p)) + i * V::lanes);
    constexpr std::int64_t beside = 64;  // inputs of a row that lie side by side
    for (std::int64_t k = 0; k < weight_.padded_in; k += beside) {
      const Inputs<R> inputs(x_, row, k);
      const std::int64_t left = weight_.padded_in - k, count = left < beside ? left : beside;
      unrolled<P / Q>([&](auto turn) __attribute__((always_inline)) {
        Sums<V, R, Q> own = sums[turn];
        Unit::add_whole(inputs, count, panels_from(panels, turn * Q, k * panel_outputs), own);
        sums[turn] = own;
      });
    }
    scale<R, P>(row, panels, sums, totals);
  }

  // Whole sums of groups, times their multipliers.
  template <int R, int P>
  void int4_totals(std::int64_t row, const std::byte* panels, Totals<R, P>& totals) const {
    constexpr int Q = side_by_side<R, P>;
    Sums<V, R, Q> whole[P / Q];
    for (auto& some : whole)
      for (int r = 0; r < R; ++r) some.set(r, V::all(0));
    for (std::int64_t g = 0; g < weight_.groups(); ++g) {
      const Group<R> group(*this, row, g, weight_.zero());
      in_turns<R, P>([&](int p, Sums<V, R, Q>& sums) __attribute__((always_inline)) {
        group_sums<true>(group, g, panels, p, sums);
        unrolled<Q>([&](auto q) __attribute__((always_inline)) {
          for (int i = 0; i < vectors; ++i) {
            const Ints multipliers = V::bytes_widened(weight_.multipliers(panel_at(panels, p + q)) +
                                                      g * panel_outputs + i * V::lanes);
            for (int r = 0; r < R; ++r) {
              Ints& sum = whole[p / Q].of[r][q][i];
              sum = V::add(sum, V::multiply(sums.of[r][q][i], multipliers));
            }
          }
        });
      });
    }
    scale<R, P>(row, panels, whole, totals);
  }

  // total = sum * (scale * the activations' scale) + total, then total = minimum * scaled sum of the
  // activations + total, group by group, as the other kernels do.
  template <int R, int P, bool four_bits>
  void group_totals(std::int64_t row, const std::byte* panels, Totals<R, P>& totals) const {
    constexpr int Q = side_by_side<R, P>;
    for (auto& of_row : totals)
      for (auto& of_panel : of_row)
        for (Floats& total : of_panel) total = V::all(0.0F);
    for (std::int64_t g = 0; g < weight_.groups(); ++g) {
      const Group<R> group(*this, row, g, four_bits ? weight_.zero() : Unit::group_zero);
      in_turns<R, P>([&](int first, Sums<V, R, Q>& sums) __attribute__((always_inline)) {
        group_sums<four_bits>(group, g, panels, first, sums);
        unrolled<Q>([&](auto q) __attribute__((always_inline)) {
          const std::byte* panel = panel_at(panels, first + q);
          for (int i = 0; i < vectors; ++i) {
            const Floats scales = group_values(weight_.group_scales(panel, g), i);
            for (int r = 0; r < R; ++r) {
              Floats& total = totals[r][first + q][i];
              total = V::multiply_add(V::floats(sums.of[r][q][i]),
                                      V::multiply(scales, V::all(x_.scales[group.at[r]])), total);
            }
            if (!weight_.minima) continue;
            const Floats minima = group_values(weight_.group_minima(panel, g), i);
            for (int r = 0; r < R; ++r) {
              Floats& total = totals[r][first + q][i];
              total = V::multiply_add(minima, V::all(x_.scaled_sums[group.at[r]]), total);
            }
          }
        });
      });
    }
  }

  template <int R, int P, int Q>
  void scale(std::int64_t row, const std::byte* panels, const Sums<V, R, Q> (&sums)[P / Q],
             Totals<R, P>& totals) const {
    for (int p = 0; p < P; ++p) {
      for (int i = 0; i < vectors; ++i) {
        const Floats scales = V::load(weight_.scales(panel_at(panels, p)) + i * V::lanes);
        for (int r = 0; r < R; ++r)
          totals[r][p][i] = V::multiply(
              V::multiply(V::floats(sums[p / Q].of[r][p % Q][i]), V::all(x_.scales[row + r])), scales);
      }
    }
  }

  // Where R rows have a group, and with what its sums begin: stored weights are `zero` more than they stand
  // for.
  template <int R>
  struct Group {
    [[gnu::always_inline]] Group(const IntegerProduct& product, std::int64_t row, std::int64_t g,
                                 std::int32_t zero)
        : inputs(product.x_, row, g * product.weight_.group) {
      for (int r = 0; r < R; ++r) {
        at[r] = group_offset(product.weight_.groups(), row + r, g);
        start[r] = -zero * product.x_.sums[at[r]];
      }
    }
    Inputs<R> inputs;
    std::int64_t at[R];  // in Activations::sums
    std::int32_t start[R];
  };

  template <bool four_bits, int R, int Q>
  [[gnu::always_inline]] void group_sums(const Group<R>& group, std::int64_t g, const std::byte* panels,
                                         int panel, Sums<V, R, Q>& sums) const {
    for (int r = 0; r < R; ++r) sums.set(r, V::all(group.start[r]));
    const std::int64_t offset = g * weight_.group * (panel_outputs / (four_bits ? 2 : 1));
    if constexpr (four_bits)
      Unit::add_four_bits(group.inputs, weight_.group, panels_from(panels, panel, offset), sums);
    else
      Unit::add_group(group.inputs, weight_.group, panels_from(panels, panel, offset), sums);
  }

  Panels panels_from(const std::byte* panels, int panel, std::int64_t offset) const {
    return {panel_at(panels, panel) + offset, weight_.panel_bytes()};
  }
  const std::byte* panel_at(const std::byte* panels, std::int64_t p) const {
    return panels + p * weight_.panel_bytes();
  }

  // A vector of a group's scales or minima.
  Floats group_values(const std::byte* of_group, int vector) const {
    if (!weight_.half_scales) return V::load(reinterpret_cast<const float*>(of_group) + vector * V::lanes);
    return V::load_f16(reinterpret_cast<const std::uint16_t*>(of_group) + vector * V::lanes);
  }

  const PackedMatrix& weight_;
  const Activations& x_;
  const Destination& to_;
};

}  // namespace
}  // namespace fathom::products
